"""A checkpoint directory to model and processor, in the number format that suits the machine."""

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoProcessor, BitsAndBytesConfig, CompressedTensorsConfig, PreTrainedConfig

from fourfold.assistant.extras import require
from fourfold.assistant.model import MiniGPTv2Config, MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.model.bf16 import cast_linears_to_bf16, has_fast_bf16
from fourfold.assistant.quantization.quiet import quiet
from fourfold.prompts.errors import UserError, first_line
from fourfold.serving.engine.onnx_decoder import int8_is_good
from fourfold.serving.engine.onnx_graph import WeightFormat, can_be_built

DtypeName = Literal["auto", "int8", "float32", "bfloat16", "float16"]
Quantization = Literal["4bit", "8bit"]
log = logging.getLogger("fourfold.engine")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)
# Low-bit vision towers lose up to 23 points in the literature, the projector is small, and the head is often tied to
# the embedding table. transformers matches these from the start of a module's full name.
_SKIPPED = ["model.vision_tower", "model.vision_norm", "model.projector", "lm_head"]


@dataclass(frozen=True)
class NumberFormat:
    """How a loaded model keeps its numbers.

    Attributes:
        dtype: of everything that torch computes.
        decoder: of the weights of the language model's products where onnxruntime computes it, see `OnnxDecoder`; None
            where torch does.
        bf16_tower: whether the image tower's products are in bfloat16, between activations in `dtype`.
    """

    dtype: torch.dtype
    decoder: WeightFormat | None = None
    bf16_tower: bool = False


def load_checkpoint(
    directory: Path, dtype: DtypeName, device: torch.device, quantization: Quantization | None
) -> tuple[MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor, WeightFormat | None]:
    """The model, ready to use on `device`, its processor, and in which format onnxruntime computes the language model.

    Args:
        directory: a checkpoint; `resolve_model` has looked whether it is whole.
        dtype: see `choose_format`.
        quantization: of the language model, by bitsandbytes.

    Raises:
        UserError: a part is missing, unreadable or does not go with the others, or an option is impossible here.
    """
    if quantization is not None:
        require("bitsandbytes", f"--quantization {quantization}")
    config = _load_config(directory)
    processor = _load_processor(directory, config)
    number_format = choose_format(dtype, config, device, quantization)
    if stored := getattr(config, "quantization_config", None):
        _check_stored(directory, stored, quantization)
        model = _load_stored(directory, number_format.dtype, device)
    else:
        model = _load_model(directory, number_format.dtype, device, quantization)
    if number_format.bf16_tower:
        cast_linears_to_bf16(model.model.vision_tower)
    return model, processor, number_format.decoder


def _load_config(directory: Path) -> MiniGPTv2Config:
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(f"cannot read {directory / 'config.json'}: {first_line(error)}") from error
    if not isinstance(config, MiniGPTv2Config):
        raise UserError(f"{directory} holds a model of type {config.model_type!r}, not {MiniGPTv2Config.model_type!r}")
    return config


def _load_model(
    directory: Path, dtype: torch.dtype, device: torch.device, quantization: Quantization | None, **options: object
) -> MiniGPTv2ForConditionalGeneration:
    if quantization is not None:
        options = {"quantization_config": _quantization_config(quantization, dtype), "device_map": {"": str(device)}}
    try:
        model, report = MiniGPTv2ForConditionalGeneration.from_pretrained(
            directory, dtype=dtype, local_files_only=True, output_loading_info=True, **options
        )
    except ImportError as error:
        raise UserError(f"{quantization} needs bitsandbytes: {first_line(error)}") from error
    except _BROKEN as error:
        raise UserError(f"cannot load the weights of {directory}: {first_line(error)}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"the checkpoint {directory} lacks {len(missing)} weights, the first is {missing[0]}")
    return (model if quantization else model.to(device)).eval()


def _check_stored(directory: Path, stored: dict[str, Any], quantization: Quantization | None) -> None:
    method = stored.get("quant_method")
    if method != "compressed-tensors":
        raise UserError(
            f"{directory} is quantised by {method!r}, which is not loaded here; make one by `fourfold quantize` of the "
            "checkpoint it was made of"
        )
    if quantization is not None:
        raise UserError(f"{directory} is quantised already; leave out --quantization {quantization}")
    if find_spec("compressed_tensors") is None:
        raise UserError(f"{directory} is quantised, which needs compressed-tensors: pip install compressed-tensors")


def _load_stored(directory: Path, dtype: torch.dtype, device: torch.device) -> MiniGPTv2ForConditionalGeneration:
    """A checkpoint of `fourfold quantize`, its rounded weights as ordinary ones: what is rounded here is the storage.

    Neither torch nor onnxruntime computes in these formats. Activations of int8 stay whole numbers in vLLM alone.
    """
    from compressed_tensors.quantization import disable_quantization

    with quiet():
        model = _load_model(
            directory, dtype, device, None, quantization_config=CompressedTensorsConfig(dequantize=True)
        )
    model.apply(disable_quantization)
    return model


def _load_processor(directory: Path, config: MiniGPTv2Config) -> MiniGPTv2Processor:
    try:
        processor = AutoProcessor.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except _BROKEN as error:
        raise UserError(f"cannot load the processor of {directory}: {first_line(error)}") from error
    if not isinstance(processor, MiniGPTv2Processor) or not processor.chat_template:
        raise UserError(f"{directory} has no MiniGPT-v2 processor with a chat template")
    if processor.num_image_tokens != config.image_seq_length or processor.image_token_id != config.image_token_id:
        raise UserError(
            f"the processor of {directory} writes {processor.num_image_tokens} image tokens (id "
            f"{processor.image_token_id}), its model wants {config.image_seq_length} (id {config.image_token_id})"
        )
    return processor


def end_tokens(model: MiniGPTv2ForConditionalGeneration, processor: MiniGPTv2Processor) -> frozenset[int]:
    """Tokens that end an answer: of the generation configuration, else the tokenizer's."""
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = processor.tokenizer.eos_token_id
    return frozenset([ids] if isinstance(ids, int) else ids or [])


def choose_format(
    name: DtypeName, config: PreTrainedConfig, device: torch.device, quantization: Quantization | None = None
) -> NumberFormat:
    """The number format to load a model in.

    onnxruntime computes the language model where it is a plain LLaMA on a CPU, in float32 or with int8 weights, and
    bitsandbytes has no part in it; torch computes everything else.

    Args:
        name: "auto" takes bfloat16 on CUDA where the device has it, else float16; on a CPU int8 for the language
            model where the processor is good at it, and float32 for the rest but the image tower's products, which
            are bfloat16 where the processor has instructions for them ("int8" the same).
        config: of the model.
        device: to load on.
        quantization: by bitsandbytes.

    Raises:
        UserError: there is no such format, or not here.
    """
    if name not in ("auto", "int8", *_DTYPES):
        raise UserError(f"no dtype is called {name!r}; there are: auto, int8, {', '.join(_DTYPES)}")
    if name == "auto" and device.type == "cuda":
        return NumberFormat(torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)
    dtype = _DTYPES.get(name, torch.float32)
    possible = device.type == "cpu" and quantization is None and can_be_built(config.text_config)
    if name == "int8" and not possible:
        raise UserError("int8 is for plain LLaMA language models on a CPU, without bitsandbytes; choose another dtype")
    if not possible or dtype != torch.float32:
        return NumberFormat(dtype)
    if name == "int8" or (name == "auto" and int8_is_good()):
        return NumberFormat(dtype, "int8", bf16_tower=has_fast_bf16(device))
    return NumberFormat(dtype, "float32")


def _quantization_config(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantisation, or LLM.int8(); what is not quantised is kept and computed in `dtype`."""
    # It warns that an optional kernel package, fetched from the network, is absent.
    logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_SKIPPED)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=_SKIPPED,
    )


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" for CUDA where there is one, else for Apple's MPS, else for the CPU.

    Raises:
        UserError: there is no such device, or not here.
    """
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
    return device
