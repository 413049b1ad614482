"""A checkpoint directory to model and processor, or one clear line on what is wrong with it."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoProcessor

from fourfold.assistant.checkpoints.check import check_checkpoint
from fourfold.assistant.model import MiniGPTv2Config, MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.quantization import Quantization, quantization_config

_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)


def load_config(directory: Path) -> MiniGPTv2Config:
    """The configuration of a checkpoint.

    Raises:
        UserError: there is no readable MiniGPT-v2 checkpoint.
    """
    if not directory.is_dir():
        raise UserError(f"no such checkpoint directory: {directory}")
    check_checkpoint(directory)
    try:
        return MiniGPTv2Config.from_pretrained(directory, local_files_only=True)
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(f"cannot read {directory / 'config.json'}: {_first_line(error)}") from error


def load_model(
    directory: Path, dtype: torch.dtype, device: torch.device, quantization: Quantization | None
) -> MiniGPTv2ForConditionalGeneration:
    """The model of a checkpoint, ready to use on `device`; every weight comes from the checkpoint.

    Raises:
        UserError: weights are missing, unreadable or of other shapes, or the quantisation is impossible here.
    """
    options: dict[str, object] = {}
    if quantization is not None:
        options = {"quantization_config": quantization_config(quantization, dtype), "device_map": {"": str(device)}}
    try:
        model, report = MiniGPTv2ForConditionalGeneration.from_pretrained(
            directory, dtype=dtype, local_files_only=True, output_loading_info=True, **options
        )
    except ImportError as error:
        raise UserError(f"{quantization} needs bitsandbytes: {_first_line(error)}") from error
    except _BROKEN as error:
        raise UserError(f"cannot load the weights of {directory}: {_first_line(error)}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"the checkpoint {directory} lacks {len(missing)} weights, the first is {missing[0]}")
    return (model if quantization else model.to(device)).eval()


def load_processor(directory: Path, config: MiniGPTv2Config) -> MiniGPTv2Processor:
    """The processor of a checkpoint.

    Raises:
        UserError: tokenizer, image processor or chat template is missing or does not go with the model.
    """
    try:
        processor = AutoProcessor.from_pretrained(directory, local_files_only=True)
    except _BROKEN as error:
        raise UserError(f"cannot load the processor of {directory}: {_first_line(error)}") from error
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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
