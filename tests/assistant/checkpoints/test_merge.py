"""A checkpoint with an adapter in its weights, against PEFT's own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from fourfold.assistant.checkpoints.merge import merge_adapter
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.prompts.errors import UserError

INPUTS = {
    "input_ids": torch.tensor([[1, 3, 3, 3, 3, 20, 21, 22]]),
    "pixel_values": torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
}


def write_adapter(checkpoint: Path, directory: Path, targets: str = r".*language_model.*\.(q_proj|down_proj)") -> Path:
    torch.manual_seed(1)
    model = MiniGPTv2ForConditionalGeneration.from_pretrained(checkpoint)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(directory)
    return directory


@pytest.fixture
def adapter(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return write_adapter(tiny_checkpoint, tmp_path / "taught")


@torch.no_grad()
def test_it_answers_as_the_adapted_model(tiny_checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    merged = merge_adapter(tiny_checkpoint, adapter, tmp_path / "merged")
    assert resolve_model(str(merged)) == merged
    plain = MiniGPTv2ForConditionalGeneration.from_pretrained(tiny_checkpoint)
    got = MiniGPTv2ForConditionalGeneration.from_pretrained(merged)(**INPUTS).logits
    assert not torch.allclose(got, plain(**INPUTS).logits, atol=1e-2)
    adapted = PeftModel.from_pretrained(plain, adapter)
    torch.testing.assert_close(got, adapted(**INPUTS).logits, rtol=1e-4, atol=1e-4)


def test_what_lies_beside_comes_along_but_for_the_calibration(
    tiny_checkpoint: Path, adapter: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(tiny_checkpoint, tmp_path / "source")
    for name, text in {"LICENSE-X.txt": "terms", "calibration.json": "{}", "README.md": "# Tiny\n"}.items():
        (source / name).write_text(text)
    (source / "bridge.json").write_text(json.dumps({"steps": 220, "held_out": {"photos": {}}}))
    merged = merge_adapter(source, adapter, tmp_path / "merged")
    made = json.loads((merged / "bridge.json").read_text())  # what was measured was another model
    assert made["steps"] == 220 and made["merged"]["adapter"] == "taught" and "held_out" not in made
    assert (merged / "LICENSE-X.txt").read_text() == "terms"
    assert not (merged / "calibration.json").exists()
    card = (merged / "README.md").read_text()
    assert card.startswith("# Tiny\n") and "LoRA adapter taught" in card
    names = {path.name for path in source.iterdir()} - {"calibration.json"}
    assert {path.name for path in merged.iterdir()} == names


def test_half_precision_stays_and_is_rounded_once(tiny_checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    MiniGPTv2ForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.bfloat16).save_pretrained(half)
    merged = load_file(merge_adapter(half, adapter, tmp_path / "merged") / "model.safetensors")
    before, lora = load_file(half / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    module = "model.language_model.layers.0.self_attn.q_proj"
    up, down = (lora[f"base_model.model.{module}.lora_{side}.weight"] for side in "BA")
    expected = (before[f"{module}.weight"].float() + 4 * up @ down).bfloat16()
    assert torch.equal(merged[f"{module}.weight"], expected)


def test_what_cannot_be_merged_is_told_and_leaves_nothing(tiny_checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="exists already"):
        merge_adapter(tiny_checkpoint, adapter, tmp_path / "full")
    with pytest.raises(UserError, match=r"it has no adapter_config\.json"):
        merge_adapter(tiny_checkpoint, tmp_path / "full", tmp_path / "out")
    larger = shutil.copytree(adapter, tmp_path / "for-larger")
    lora = load_file(larger / "adapter_model.safetensors")
    lora = {name: torch.zeros(2, 2 * len(one[0])) if "_A" in name else one for name, one in lora.items()}
    save_file(lora, larger / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"for-larger does not fit .* trained on a model of another size"):
        merge_adapter(tiny_checkpoint, larger, tmp_path / "out")
    seeing = write_adapter(tiny_checkpoint, tmp_path / "seeing", r".*vision_tower.*\.q_proj")
    with pytest.raises(UserError, match="changes the image tower"):
        merge_adapter(tiny_checkpoint, seeing, tmp_path / "out")
    quantised = shutil.copytree(tiny_checkpoint, tmp_path / "quantised")
    config = json.loads((quantised / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UserError, match="is quantised"):
        merge_adapter(quantised, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
