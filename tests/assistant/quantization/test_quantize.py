"""Checkpoints with fewer bits: what is rounded and what is not, by formulas of our own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor

from fourfold.assistant.checkpoints.fingerprint import tower_fingerprint
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.progress import Progress
from fourfold.assistant.quantization.calibration import calibration_chats, questions
from fourfold.assistant.quantization.methods import Method, group_size
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task
from fourfold.serving.engine.loading import load_checkpoint

CHATS = 16
GROUP = 64  # the largest that divides the tiny model's widths, 64 and 128


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def source(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with files beside it, one of which belongs to these very weights."""
    directory = tmp_path_factory.mktemp("source") / "tiny"
    shutil.copytree(tiny_checkpoint, directory)
    (directory / "bridge.json").write_text(json.dumps({"steps": 220, "held_out": {"photos": {}}}))
    (directory / "calibration.json").write_text("{}")
    (directory / "README.md").write_text("# tiny\n")
    return directory


@pytest.fixture(scope="module")
def made(source: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Method, Path]:
    """A checkpoint by each method."""
    pytest.importorskip("llmcompressor", reason="llm-compressor is not here (make test installs it)")
    from fourfold.assistant.quantization.quantize import quantize

    root, found = tmp_path_factory.mktemp("quantized"), {}
    for method in Method:
        told: list[Progress] = []
        result = quantize(source, root / method, images, method=method, chats=CHATS, on_progress=told.append)
        assert (result.directory, result.method, result.layers, result.chats) == (root / method, method, 14, CHATS)
        assert result.bytes < result.bytes_before
        assert {event.stage for event in told if event.done == event.total} == {
            "Asking about the images",
            "Rounding layers",
        }
        found[method] = root / method
    return found


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def unpacked(words: torch.Tensor, width: int) -> torch.Tensor:
    """Eight numbers of four bits in each 32-bit word, the first in its lowest bits: (rows, width), 0 to 15."""
    bits = words.numpy().astype(np.uint32)[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32)
    return torch.from_numpy((bits & 15).reshape(len(words), -1)[:, :width].astype(np.int64))


def weight(stored: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """The numbers that a rounded layer stands for, by compressed-tensors' description of its format."""
    scale = stored[f"{name}.weight_scale"].float()
    if f"{name}.weight" in stored:
        return stored[f"{name}.weight"].float() * scale
    rows, width = stored[f"{name}.weight_shape"].tolist()
    whole = unpacked(stored[f"{name}.weight_packed"], width).float()
    zero = torch.full_like(scale, 8.0)
    if f"{name}.weight_zero_point" in stored:  # packed along the rows
        packed = stored[f"{name}.weight_zero_point"]
        zero = unpacked(packed.T.contiguous(), rows).T.float()
    return (whole - zero.repeat_interleave(GROUP, 1)) * scale.repeat_interleave(GROUP, 1)


@pytest.mark.parametrize("method", Method)
def test_what_sees_is_untouched(made: dict[Method, Path], source: Path, method: Method) -> None:
    before, after = tensors(source), tensors(made[method])
    sees = [name for name in before if "language_model" not in name]
    assert len(sees) > 30 and all(torch.equal(before[name], after[name]) for name in sees)
    embeddings = "model.language_model.embed_tokens.weight"
    assert torch.equal(before[embeddings], after[embeddings])
    assert tower_fingerprint(source) == tower_fingerprint(made[method])  # so its read-outs hold
    rounded = {name.removesuffix(".weight_scale") for name in after if name.endswith(".weight_scale")}
    assert len(rounded) == 14 and all(name.startswith("model.language_model.layers.") for name in rounded)


@pytest.mark.parametrize("method", Method)
def test_the_engine_computes_with_the_rounded_weights(made: dict[Method, Path], method: Method) -> None:
    model = load_checkpoint(made[method], "float32", "cpu", None).load_in_torch().model
    stored = tensors(made[method])
    for name, layer in model.named_modules():
        if f"{name}.weight_scale" in stored:
            torch.testing.assert_close(layer.weight.detach(), weight(stored, name), atol=1e-6, rtol=1e-5)
            inputs = torch.randn(2, layer.in_features)
            torch.testing.assert_close(layer(inputs), inputs @ layer.weight.T)  # nothing is rounded again on the way


def test_gptq_errs_less_than_rounding_on_what_was_read(made: dict[Method, Path], source: Path, images: Path) -> None:
    """On the first layer, whose inputs are the same for both."""
    model = MiniGPTv2ForConditionalGeneration.from_pretrained(source).eval()
    chats = calibration_chats(model, AutoProcessor.from_pretrained(source), sorted(images.iterdir()), CHATS)
    layer, name = model.model.language_model.layers[0], "model.language_model.layers.0.self_attn.q_proj"
    with torch.no_grad():
        read = torch.cat([layer.input_layernorm(chat[0]) for chat in chats])
        exact = layer.self_attn.q_proj.weight
        groups = exact.unflatten(1, (-1, GROUP))
        scale = groups.abs().amax(-1, keepdim=True) / 7.5
        nearest = ((groups / scale).round().clamp(-8, 7) * scale).flatten(1)
        ours = weight(tensors(made[Method.GPTQ]), name)
        errors = [float((read @ (exact - other).T).square().mean()) for other in (ours, nearest)]
    assert 0 < errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("method", Method)
def test_what_lies_beside(made: dict[Method, Path], source: Path, method: Method) -> None:
    directory = made[method]
    names = {path.name for path in source.iterdir()} - {"calibration.json"}
    assert names <= {path.name for path in directory.iterdir()}
    assert not (directory / "calibration.json").exists()
    told = json.loads((directory / "bridge.json").read_text())  # what was measured is of the model before
    assert told["steps"] == 220 and told["quantized"]["method"] == method and "held_out" not in told
    before, after = (json.loads((place / "config.json").read_text()) for place in (source, directory))
    stored = after.pop("quantization_config")
    assert after == before and stored["quant_method"] == "compressed-tensors"
    (group,) = stored["config_groups"].values()
    bits, symmetric = group["weights"]["num_bits"], group["weights"]["symmetric"]
    assert (bits, symmetric) == {"gptq": (4, True), "awq": (4, False), "int8": (8, True)}[method]
    assert (group["input_activations"] or {}).get("num_bits") == (8 if method is Method.INT8 else None)
    card = (directory / "README.md").read_text()
    assert card.startswith("# tiny\n") and f"## {method.upper()}" in card and f"{CHATS} chats" in card


def test_refusals(made: dict[Method, Path], source: Path, images: Path, tmp_path: Path) -> None:
    from fourfold.assistant.quantization.quantize import quantize

    with pytest.raises(UserError, match="exists already"):
        quantize(source, images, images)
    with pytest.raises(UserError, match="quantised already; give the checkpoint it was made of"):
        quantize(made[Method.GPTQ], tmp_path / "again", images)
    with pytest.raises(UserError, match="no such file"):
        quantize(source, tmp_path / "out", tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_the_engine_says_why_it_does_not_load(made: dict[Method, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quantised already; leave out --quantization 8bit"):
        load_checkpoint(made[Method.GPTQ], "float32", "cpu", "8bit")
    other = tmp_path / "other"
    shutil.copytree(made[Method.GPTQ], other)
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(settings | {"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(UserError, match="quantised by 'awq'"):
        load_checkpoint(other, "float32", "cpu", None)


def test_sizes_of_groups() -> None:
    def layers(*widths: int) -> list[torch.nn.Linear]:
        return [torch.nn.Linear(width, 8, device="meta") for width in widths]

    assert [group_size(layers(4096, 11008)), group_size(layers(576, 1536)), group_size(layers(96))] == [128, 64, 32]
    with pytest.raises(UserError, match=r"\[80\]; try int8"):
        group_size(layers(80))


def test_questions_are_of_all_tasks_and_follow_from_the_seed() -> None:
    asked = list(questions(64, seed=1))
    assert asked == list(questions(64, seed=1)) != list(questions(64, seed=2))
    assert [place for place, (seen, _) in enumerate(asked) if not seen] == list(range(7, 64, 8))
    tags = [text.split("]")[0] + "]" for seen, text in asked if seen]
    assert {tags.count(task.tag) for task in Task} <= {9, 10}


def test_chats_are_what_the_language_model_reads(source: Path, images: Path) -> None:
    """Of the model by itself, one chat at a time and without padding."""
    model = MiniGPTv2ForConditionalGeneration.from_pretrained(source).eval()
    processor = MiniGPTv2Processor.from_pretrained(source)
    (only,) = [path for path in images.iterdir() if path.name == "0.png"]
    chats = calibration_chats(model, processor, [only], 8)
    seen: list[torch.Tensor] = []
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    for chat, (with_image, text) in zip(chats, questions(8, 0), strict=True):
        picture = [{"type": "image", "image": Image.open(only)}] if with_image else []
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": [*picture, {"type": "text", "text": text}]}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        seen.clear()
        written = model.generate(**inputs, max_new_tokens=48, do_sample=False)
        prompt = seen[0]
        torch.testing.assert_close(chat[:, : prompt.shape[1]], prompt, atol=1e-5, rtol=1e-4)
        assert chat.shape[1] == written.shape[1] > prompt.shape[1]
