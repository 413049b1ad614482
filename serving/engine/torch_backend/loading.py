"""What of a checkpoint transformers reads: models in torch, and whatever files are not as fourfold writes them."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoProcessor, BitsAndBytesConfig, CompressedTensorsConfig
from transformers.utils import logging as transformers_logging

from fourfold.assistant.model import MiniGPTv2Config, MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.model.bf16 import cast_linears_to_bf16, has_fast_bf16
from fourfold.assistant.quantization.quiet import quiet
from fourfold.prompts.errors import UserError, first_line
from fourfold.serving.engine.torch_backend.model import TorchModel

if TYPE_CHECKING:
    from fourfold.serving.engine.loading import Quantization

_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)
# Low-bit vision towers lose up to 23 points in the literature, the projector is small, and the head is often tied to
# the embedding table. transformers matches these from the start of a module's full name.
_SKIPPED = ["model.vision_tower", "model.vision_norm", "model.projector", "lm_head"]


def load_in_torch(
    directory: Path,
    dtype: str,
    device: str,
    quantization: "Quantization | None",
    *,
    bf16_tower: bool,
) -> TorchModel:
    """A checkpoint in torch.

    Args:
        dtype: torch's name of it.
        bf16_tower: whether the image tower's products are in bfloat16 where the processor is fast in it.

    Raises:
        UserError: weights are missing or unreadable.
    """
    number, where = getattr(torch, dtype), torch.device(device)
    config = load_config(directory)
    if stored := getattr(config, "quantization_config", None):
        _check_stored(directory, stored, quantization)
        model = _load_stored(directory, number, where)
    else:
        model = _load_model(directory, number, where, quantization)
    if bf16_tower and has_fast_bf16(where):
        cast_linears_to_bf16(model.model.vision_tower)
    return TorchModel(model)


def load_config(directory: Path) -> MiniGPTv2Config:
    """The configuration of a checkpoint.

    Raises:
        UserError: it is unreadable, or of another model.
    """
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(f"cannot read {directory / 'config.json'}: {first_line(error)}") from error
    if not isinstance(config, MiniGPTv2Config):
        raise UserError(f"{directory} holds a model of type {config.model_type!r}, not {MiniGPTv2Config.model_type!r}")
    return config


def load_processor(directory: Path) -> MiniGPTv2Processor:
    """The processor of a checkpoint.

    Raises:
        UserError: it is unreadable, or of another model.
    """
    try:
        processor = AutoProcessor.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except _BROKEN as error:
        raise UserError(f"cannot load the processor of {directory}: {first_line(error)}") from error
    if not isinstance(processor, MiniGPTv2Processor) or not processor.chat_template:
        raise UserError(f"{directory} has no MiniGPT-v2 processor with a chat template")
    return processor


def _load_model(
    directory: Path, dtype: torch.dtype, device: torch.device, quantization: "Quantization | None", **options: object
) -> MiniGPTv2ForConditionalGeneration:
    if quantization is not None:
        options = {"quantization_config": _quantization_config(quantization, dtype), "device_map": {"": str(device)}}
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model, report = MiniGPTv2ForConditionalGeneration.from_pretrained(
            directory, dtype=dtype, local_files_only=True, output_loading_info=True, **options
        )
    except ImportError as error:
        raise UserError(f"{quantization} needs bitsandbytes: {first_line(error)}") from error
    except _BROKEN as error:
        raise UserError(f"cannot load the weights of {directory}: {first_line(error)}") from error
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"the checkpoint {directory} lacks {len(missing)} weights, the first is {missing[0]}")
    return (model if quantization else model.to(device)).eval()


def _check_stored(directory: Path, stored: dict[str, Any], quantization: "Quantization | None") -> None:
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


def _quantization_config(quantization: "Quantization", dtype: torch.dtype) -> BitsAndBytesConfig:
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
