"""Merging an adapter, against PEFT's own forward pass."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from fourfold.assistant.checkpoints.lora import merge_lora
from fourfold.prompts.errors import UserError
from tests.assistant.checkpoints.tiny_weights import tiny_llama
from tests.tiny import tiny_model


def _randomise(model: torch.nn.Module) -> None:
    """PEFT starts B at zero, where a merge that does nothing would pass."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    llama = get_peft_model(tiny_llama().model, LoraConfig(r=4, lora_alpha=12, target_modules="all-linear"))
    _randomise(llama)
    llama.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_merged_model_answers_as_the_adapted_one(tmp_path: Path, use_rslora: bool) -> None:
    original = tiny_llama()
    weights = {key: tensor.clone() for key, tensor in original.model.state_dict().items()}
    options = LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", use_rslora=use_rslora)
    adapted = get_peft_model(original.model, options).eval()
    _randomise(adapted)
    adapted.save_pretrained(tmp_path)
    ids = torch.arange(20).reshape(2, 10)
    merged, plain = tiny_llama().model, tiny_llama().model
    merged.load_state_dict(merge_lora(weights, tmp_path), strict=True)
    with torch.no_grad():
        expected = adapted(input_ids=ids).last_hidden_state
        torch.testing.assert_close(merged(input_ids=ids).last_hidden_state, expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(plain(input_ids=ids).last_hidden_state, expected, atol=1e-1)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in tiny_llama().model.state_dict().items())


def test_an_adapter_trained_on_the_whole_model_fits_too(tmp_path: Path) -> None:
    model = tiny_model()
    weights = {key: tensor.clone() for key, tensor in model.model.language_model.state_dict().items()}
    options = LoraConfig(r=2, lora_alpha=4, target_modules=r".*language_model.*\.(q_proj|down_proj)")
    adapted = get_peft_model(model, options)
    _randomise(adapted)
    adapted.save_pretrained(tmp_path)
    merged = merge_lora(weights, tmp_path)
    by_peft = adapted.merge_and_unload().model.language_model.state_dict()
    for key, tensor in by_peft.items():
        torch.testing.assert_close(merged[key], tensor, msg=key)


def _set(adapter: Path, **options: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"rank_pattern": {"q_proj": 8}},
        {"alpha_pattern": {"q_proj": 8}},
        {"modules_to_save": ["embed_tokens"]},
        {"fan_in_fan_out": True},
    ],
)
def test_what_is_no_plain_lora_is_refused_by_name(adapter: Path, options: dict[str, object]) -> None:
    _set(adapter, **options)
    with pytest.raises(UserError, match=next(iter(options))):
        merge_lora(tiny_llama().model.state_dict(), adapter)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    with pytest.raises(UserError, match=name):
        merge_lora(tiny_llama().model.state_dict(), adapter)


def _change(adapter: Path, change: object) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)  # type: ignore[operator]


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: dict(list(tensors.items())[1:]),  # half a pair
        lambda tensors: {key.replace("layers.1.", "layers.7."): tensor for key, tensor in tensors.items()},
        lambda tensors: {key.replace("q_proj", "x_proj"): tensor for key, tensor in tensors.items()},
        lambda tensors: {key: tensor.repeat(2, 2) for key, tensor in tensors.items()},
        lambda tensors: tensors | {"base_model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": torch.ones(3)},
        lambda tensors: {"unrelated": torch.ones(3)},
        lambda tensors: {},
    ],
)
def test_tensors_that_fit_nowhere_are_refused(adapter: Path, change: object) -> None:
    _change(adapter, change)
    with pytest.raises(UserError, match="adapter"):
        merge_lora(tiny_llama().model.state_dict(), adapter)
