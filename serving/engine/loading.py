"""A checkpoint directory to a model that answers, in the number format that suits the machine.

On a CPU that is onnxruntime's, and neither torch nor transformers is imported for it. Whatever is not read here in so
many words is left to transformers: configurations of other models, tokenizers with code, quantised weights.
"""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jinja2
import numpy as np
from PIL import Image

from fourfold.assistant.checkpoints.damage import told_as_damage
from fourfold.assistant.checkpoints.mapped_weights import MappedWeights, under, weight_files
from fourfold.assistant.extras import require
from fourfold.prompts.errors import UserError, first_line
from fourfold.serving.engine.model_config import ModelConfig
from fourfold.serving.engine.onnx_backend import vision_graph as onnx_vision_graph
from fourfold.serving.engine.onnx_backend.decoder import int8_is_good
from fourfold.serving.engine.onnx_backend.decoder_graph import WeightFormat, can_be_built
from fourfold.serving.engine.onnx_backend.model import OnnxModel, tensor_shapes
from fourfold.serving.engine.onnx_backend.vision import OnnxVisionTower, choose_tower_format
from fourfold.serving.engine.prompt.processor import Processor, of_transformers, read_processor

if TYPE_CHECKING:
    from fourfold.serving.engine.torch_backend.model import TorchModel

DtypeName = Literal["auto", "int8", "float32", "bfloat16", "float16"]
Quantization = Literal["4bit", "8bit"]
log = logging.getLogger("fourfold.engine")
_DTYPES = ("float32", "bfloat16", "float16")
_UNREAD = (OSError, ValueError, KeyError, TypeError, AttributeError, jinja2.TemplateError)
"""What reading raises where a file is missing or damaged, or is transformers' to read."""


@dataclass(frozen=True)
class NumberFormat:
    """How a loaded model keeps its numbers.

    Attributes:
        dtype: of everything that torch computes, and of what onnxruntime does between products.
        decoder: of the weights of the language model's products where onnxruntime computes it, see `OnnxDecoder`; None
            where torch does.
    """

    dtype: str
    decoder: WeightFormat | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        config: of the whole model: a `ModelConfig`, or transformers' own.
        image_size: pixels of a side.
        end_ids: tokens that end an answer.
        suppress_tokens: tokens that are never drawn.
        base: computes the model without adapters.
        load_in_torch: the same model in torch, for adapters; it takes seconds and the memory of a second copy.
    """

    config: Any
    image_size: int
    processor: Processor
    end_ids: frozenset[int]
    suppress_tokens: tuple[int, ...]
    base: "OnnxModel | TorchModel"
    load_in_torch: "Callable[[], TorchModel]"

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return context_length(self.config.text_config)


def load_checkpoint(directory: Path, dtype: DtypeName, device: str, quantization: Quantization | None) -> Checkpoint:
    """The model, ready to use on `device`, and what goes with it.

    Args:
        directory: a checkpoint; `resolve_model` has looked whether it is whole.
        dtype: see `choose_format`.
        device: see `choose_device`.
        quantization: of the language model, by bitsandbytes.

    Raises:
        UserError: a part is missing, unreadable or does not go with the others, or an option is impossible here.
    """
    if quantization is not None:
        require("bitsandbytes", f"--quantization {quantization}")
    again = "copy or download it again"
    with told_as_damage(directory, again):
        config = _load_config(directory)
        processor = _load_processor(directory, config)
        vision = config.vision_config if isinstance(config, ModelConfig) else config.vision_config.to_dict()
        can_be_built(config.text_config)  # which a value that is no number fails
        tower_in_torch = not onnx_vision_graph.can_be_built(vision)
    number_format = choose_format(dtype, config, device, quantization)
    _check_size(directory, processor, vision["image_size"])
    decoder = number_format.decoder
    tower_in_torch = tower_in_torch or decoder is None

    def load_in_torch() -> "TorchModel":
        from fourfold.serving.engine.torch_backend import loading as torch_loading

        bf16_tower = decoder == "int8" and tower_in_torch
        model = torch_loading.load_in_torch(directory, number_format.dtype, device, quantization, bf16_tower=bf16_tower)
        if not tower_in_torch:
            model.forget_tower()
        return model

    with told_as_damage(directory, again):
        end_ids, suppress_tokens = _generation(directory, processor)
    if decoder is None:
        base: OnnxModel | TorchModel = load_in_torch()
    else:
        with told_as_damage(directory, again):  # a tower of other sizes fails as late as in onnxruntime
            base = _in_onnxruntime(directory, config, vision, decoder)
    return Checkpoint(config, vision["image_size"], processor, end_ids, suppress_tokens, base, load_in_torch)


def _load_config(directory: Path) -> Any:
    try:
        return ModelConfig.from_dict(json.loads((directory / "config.json").read_text(encoding="utf-8")))
    except _UNREAD:
        from fourfold.serving.engine.torch_backend.loading import load_config

        return load_config(directory)


def _load_processor(directory: Path, config: Any) -> Processor:
    try:
        processor = read_processor(directory)
    except _UNREAD:
        from fourfold.serving.engine.torch_backend.loading import load_processor

        processor = of_transformers(load_processor(directory))
    if processor.num_image_tokens != config.image_seq_length or processor.image_token_id != config.image_token_id:
        raise UserError(
            f"the processor of {directory} writes {processor.num_image_tokens} image tokens (id "
            f"{processor.image_token_id}), its model wants {config.image_seq_length} (id {config.image_token_id})"
        )
    return processor


def _check_size(directory: Path, processor: Processor, size: int) -> None:
    height, width = processor.pixels(Image.new("RGB", (size, size))).shape[-2:]
    if (height, width) != (size, size):
        raise UserError(
            f"the processor of {directory} makes pictures of {width} x {height} pixels, its model wants {size} x "
            f"{size}; correct the size in processor_config.json"
        )


def _in_onnxruntime(directory: Path, config: Any, vision: Mapping[str, Any], decoder: WeightFormat) -> OnnxModel:
    if getattr(config, "quantization_config", None):
        from fourfold.serving.engine.torch_backend import loading as torch_loading

        in_torch = torch_loading.load_in_torch(directory, "float32", "cpu", None, bf16_tower=False)
        held = in_torch.tensors()
        _check_shapes({name: array.shape for name, array in held.items()}, config, directory)
        return _build(held, config, vision, decoder)
    try:
        tensors = MappedWeights(weight_files(directory))
        _check_shapes({name: tensors.shape(name) for name in tensors}, config, directory)
        return _build(tensors, config, vision, decoder)
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"the weights of {directory} lack {error}; copy or download it again") from error
    except _UNREAD as error:
        raise UserError(f"cannot load the weights of {directory}: {first_line(error)}") from error


def _check_shapes(held: Mapping[str, tuple[int, ...]], config: Any, directory: Path) -> None:
    wanted = tensor_shapes(config)
    if missing := sorted(wanted.keys() - held.keys()):
        raise UserError(f"the checkpoint {directory} lacks {len(missing)} weights, the first is {missing[0]}")
    for name, shape in wanted.items():
        if held[name] != shape:
            raise UserError(
                f"cannot load the weights of {directory}: {name} is {held[name]}, and by config.json {shape}"
            )


def _build(
    tensors: Mapping[str, np.ndarray], config: Any, vision: Mapping[str, Any], decoder: WeightFormat
) -> OnnxModel:
    tower = None
    if onnx_vision_graph.can_be_built(vision):
        weights = choose_tower_format() if decoder == "int8" else "float32"
        tower = OnnxVisionTower(under("model.vision_tower", tensors), vision, weights)
    return OnnxModel(tensors, config, decoder, tower, context=context_length(config.text_config))


def context_length(config: Any) -> int:
    """Tokens that prompt and answer may have together, by the configuration of the language model."""
    longest: int = config.max_position_embeddings
    return min(longest, getattr(config, "sliding_window", None) or longest)


def _generation(directory: Path, processor: Processor) -> tuple[frozenset[int], tuple[int, ...]]:
    """Tokens that end an answer (of the generation's configuration, else the tokenizer's), and those never drawn."""
    try:
        settings = json.loads((directory / "generation_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        settings = {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {directory / 'generation_config.json'}: {first_line(error)}") from error
    ids = settings.get("eos_token_id")
    if ids is None:
        ids = processor.tokenizer.eos_token_id
    ends = frozenset([ids] if isinstance(ids, int) else ids or [])
    return ends, tuple(settings.get("suppress_tokens") or ())


def choose_format(name: DtypeName, config: Any, device: str, quantization: Quantization | None = None) -> NumberFormat:
    """The number format to load a model in.

    onnxruntime computes the language model where it is a plain LLaMA on a CPU, in float32 or with int8 weights, and
    bitsandbytes has no part in it; torch computes everything else.

    Args:
        name: "auto" takes bfloat16 on CUDA where the device has it, else float16; on a CPU int8 for the language
            model where the processor is good at it, and float32 for the rest but the image tower's products, whose
            format is chosen for the processor ("int8" the same).
        config: of the model, with transformers' names.
        device: to load on.
        quantization: by bitsandbytes.

    Raises:
        UserError: there is no such format, or not here.
    """
    if name not in ("auto", "int8", *_DTYPES):
        raise UserError(f"no dtype is called {name!r}; there are: auto, int8, {', '.join(_DTYPES)}")
    if name == "auto" and device.startswith("cuda"):
        import torch

        return NumberFormat("bfloat16" if torch.cuda.is_bf16_supported() else "float16")
    dtype = name if name in _DTYPES else "float32"
    possible = device == "cpu" and quantization is None and can_be_built(config.text_config)
    if name == "int8" and not possible:
        raise UserError("int8 is for plain LLaMA language models on a CPU, without bitsandbytes; choose another dtype")
    if not possible or dtype != "float32":
        return NumberFormat(dtype)
    if name == "int8" or (name == "auto" and int8_is_good()):
        return NumberFormat(dtype, "int8")
    return NumberFormat(dtype, "float32")


def choose_device(name: str) -> str:
    """The device of a name; "auto" for CUDA where there is one, else for Apple's MPS, else for the CPU.

    Raises:
        UserError: there is no such device, or not here.
    """
    if name == "cpu" or (name == "auto" and not _may_have_gpu()):
        return "cpu"
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"no device is called {name!r}; there are: auto, cpu, cuda, cuda:0 …, mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here; ask for the device cpu, or for none")
    if device.type == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("there is no MPS device here; ask for the device cpu, or for none")
        log.warning("computing on Apple's MPS, which nobody has tried with fourfold; the device cpu is what is tested")
    return name


def _may_have_gpu() -> bool:
    """Whether torch has to be asked, which takes a second to import: there is a driver of NVIDIA or AMD, or macOS."""
    drivers = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    found = sys.platform in ("darwin", "win32") or any(Path(driver).exists() for driver in drivers)
    return found or "torch" in sys.modules
