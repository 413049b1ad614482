"""From a checkpoint to the same one with fewer bits in its language model."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from fourfold.assistant.checkpoints.bridge import forget_figures
from fourfold.assistant.checkpoints.calibration import CALIBRATION_FILE
from fourfold.assistant.checkpoints.index import write_index
from fourfold.assistant.files import building
from fourfold.assistant.image_files import image_files
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.assistant.quantization.calibration import calibration_chats
from fourfold.assistant.quantization.methods import Method, modifiers
from fourfold.assistant.quantization.quiet import quiet
from fourfold.prompts.errors import UserError

# Belong to the weights as they were: temperatures are of the old probabilities.
_NOT_COPIED = frozenset({"config.json", CALIBRATION_FILE})
_LANGUAGE_MODEL = "model.language_model."
_CARD = """
## {method}
`fourfold quantize` rounded the linear layers of the language model; tower, projector, embeddings and vocabulary head
are as they were. What this page says above, figures included, is of the model before.

* method: {what}
* measured on: {chats} chats about {images} images
* format: compressed-tensors, which vLLM serves as it is
"""
_WHAT = {
    Method.GPTQ: "GPTQ, 4 bits, a scale for every {group} weights",
    Method.AWQ: "AWQ, 4 bits, a scale and a zero for every {group} weights",
    Method.INT8: "SmoothQuant and GPTQ, 8 bits of weights and of activations",
}


@dataclass(frozen=True)
class Quantized:
    """What was made.

    Attributes:
        directory: the new checkpoint.
        method: how.
        layers: how many linear layers were rounded.
        chats: how many were read for it.
        bytes_before: of all weights.
        bytes: of all weights now.
    """

    directory: Path
    method: Method
    layers: int
    chats: int
    bytes_before: int
    bytes: int


def quantize(
    checkpoint: Path,
    out: Path,
    images: Path,
    *,
    method: Method = Method.GPTQ,
    chats: int = 128,
    seed: int = 0,
    on_progress: OnProgress = lambda event: None,
) -> Quantized:
    """Round the weights of the language model's linear layers, all but its head; what sees stays as it is.

    Runs on a GPU where there is one. `out` appears whole or not at all.

    Args:
        checkpoint: as `resolve_model` gives it; not quantised yet.
        out: the new checkpoint; it must not exist.
        images: a folder of images (or one), about which the model is asked while it is measured: such as it is for.
        method: how.
        chats: how many questions.
        seed: everything follows from it.
        on_progress: told what is going on.

    Raises:
        UserError: the checkpoint cannot be rounded so, there are no images, or the place cannot be written.
    """
    if out.exists():
        raise UserError(f"{out} exists already; choose another name or remove it")
    settings = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in settings:
        raise UserError(f"{checkpoint} is quantised already; give the checkpoint it was made of")
    pictures = image_files([images])
    # Read when it is imported; without it each layer is logged to stdout, where results belong.
    os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")
    before = _weights(checkpoint)
    with _writing(out):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(out.absolute().parent).free) < before:
            raise UserError(f"{out} may need {before / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free there")
    model = MiniGPTv2ForConditionalGeneration.from_pretrained(checkpoint, dtype="auto", local_files_only=True).eval()
    processor = MiniGPTv2Processor.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    layers = {name: layer for name, layer in linear.items() if name.startswith(_LANGUAGE_MODEL)}
    with quiet():
        recipe = modifiers(method, layers, [name for name in linear if name not in layers])
    asking = "Asking about the images"
    on_progress(Progress(asking, 0, chats))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    read = calibration_chats(
        model, processor, pictures, chats, seed=seed, on_chat=lambda done: on_progress(Progress(asking, done, chats))
    )
    with quiet():
        _round(model, recipe, read, on_progress)
        with _writing(out), building(out) as part:
            model.save_pretrained(part, save_compressed=True)
            _write_beside(part, checkpoint, settings)
            forget_figures(part, {"quantized": {"method": method, "chats": chats}})
            write_index(part)
            _add_to_card(part, out.name, method, chats, len(pictures))
    return Quantized(out, method, len(layers), chats, before, _weights(out))


def _round(
    model: MiniGPTv2ForConditionalGeneration, recipe: list[Any], read: list[torch.Tensor], on_progress: OnProgress
) -> None:
    """Layer by layer, each measured on what the rounded ones before it give."""
    from llmcompressor import oneshot
    from llmcompressor.pipelines.cache import IntermediatesCache

    layers = model.model.language_model.layers
    what, begun = "Rounding layers", set[int]()

    def tell(layer: nn.Module, _: Any) -> None:
        begun.add(id(layer))
        on_progress(Progress(what, len(begun) - 1, len(layers)))

    hooks = [layer.register_forward_pre_hook(tell) for layer in layers]
    # AWQ pins memory for a GPU whether there is one or not.
    unpinned = mock.patch.object(IntermediatesCache, "pin_memory", lambda *_, **__: None)
    chats = cast("Dataset[Any]", [{"inputs_embeds": chat} for chat in read])
    try:
        with contextlib.nullcontext() if torch.accelerator.is_available() else unpinned:
            oneshot(
                model=model,
                dataset=DataLoader(chats, batch_size=None),
                recipe=recipe,
                num_calibration_samples=len(read),
                pipeline="sequential",
                sequential_targets=[type(layers[0]).__name__],
            )
    finally:
        for hook in hooks:
            hook.remove()
    on_progress(Progress(what, len(layers), len(layers)))


def _write_beside(part: Path, checkpoint: Path, settings: dict[str, Any]) -> None:
    """Everything but the weights as it was, and in the configuration how they are stored."""
    stored = json.loads((part / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    settings = settings | {"quantization_config": stored}
    (part / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    for path in checkpoint.iterdir():
        is_weight = path.name.startswith(("model.", "model-"))
        if path.is_file() and path.name not in _NOT_COPIED and not is_weight:
            shutil.copyfile(path, part / path.name)


def _add_to_card(part: Path, name: str, method: Method, chats: int, images: int) -> None:
    stored = json.loads((part / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    (group,) = stored["config_groups"].values()
    what = _WHAT[method].format(group=group["weights"]["group_size"])
    card = part / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else f"# {name}\n"
    card.write_text(text + _CARD.format(method=method.upper(), what=what, chats=chats, images=images), encoding="utf-8")


def _weights(directory: Path) -> int:
    """Bytes."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors") if path.name.startswith("model"))


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}); choose another place") from error
