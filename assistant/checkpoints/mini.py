"""The default model, fourfold-mini: public weights and this repository's bridge put together."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import CLIPImageProcessorPil, GenerationConfig
from transformers.utils import logging

from fourfold.assistant.checkpoints.bridge import BLOCKS, IMAGE_SIZE, read_geometry
from fourfold.assistant.checkpoints.cache import check_room, storage_errors
from fourfold.assistant.checkpoints.card import write_card
from fourfold.assistant.checkpoints.clip_onnx import read_clip_vision
from fourfold.assistant.checkpoints.llama_gguf import GGUFFile
from fourfold.assistant.checkpoints.lora import merge_lora
from fourfold.assistant.checkpoints.positions import resize_position_embeddings
from fourfold.assistant.checkpoints.progress import ProgressCallback
from fourfold.assistant.checkpoints.weights import IMAGE_TOWER, LANGUAGE_MODEL, fetch
from fourfold.assistant.model import IMAGE_TOKEN, MiniGPTv2Config, MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.model.modeling import VisionLLMBlock
from fourfold.prompts.chat import load_template
from fourfold.prompts.errors import UserError

# One of SmolLM2's control tokens that its training never used: its embedding equals that of its unused neighbours.
_SPARE_TOKEN = "<empty_output>"


def assemble(
    directory: Path,
    *,
    bridge: Path | None,
    image_size: int = IMAGE_SIZE,
    blocks: int = BLOCKS,
    vision_llm_block: int | None = None,
    on_progress: ProgressCallback = lambda what, done, total: None,
) -> Path:
    """Make a checkpoint directory of the public weights, downloading them where they are not cached.

    The directory appears whole or not at all.

    Args:
        directory: where to; it must not exist.
        bridge: directory with the trained projector and LoRA adapter, which is merged; None for a random projector
            (seeded, at the scale of the word embeddings) and the language model as it is.
        image_size: pixels; a multiple of the patch size whose grid divides into fours.
        blocks: how many of the tower's first blocks to keep; the last kept one's output is what the projector sees.
        vision_llm_block: see `MiniGPTv2Config`; the block starts as a copy of that layer.
        on_progress: told what is going on.

    Returns:
        `directory`.

    Raises:
        UserError: the weights cannot be had, the bridge is incomplete or belongs to other sizes, the sizes do not
            go together, or the place cannot be written.
    """
    if directory.exists():
        raise UserError(f"{directory} exists already; remove it or choose another place")
    if bridge is not None:
        asked = {"image_size": image_size, "blocks": blocks}
        if (trained := read_geometry(bridge)) != asked:
            raise UserError(f"the bridge {bridge} was trained for {trained}, which does not go with {asked}")
        if vision_llm_block is not None:
            raise UserError("a bridge brings no weights for a vision block; assemble without a bridge, or without it")
    tower_file, language_file = fetch(IMAGE_TOWER, on_progress), fetch(LANGUAGE_MODEL, on_progress)
    what = f"Assembling {directory.name}"
    on_progress(what, 0, 3)
    gguf = GGUFFile(language_file)
    tokenizer = gguf.tokenizer(renamed={_SPARE_TOKEN: IMAGE_TOKEN})
    language_config, language = gguf.config(), gguf.weights()
    language_config.bos_token_id = tokenizer.bos_token_id
    language_config.eos_token_id = tokenizer.eos_token_id
    language_config.pad_token_id = tokenizer.pad_token_id
    if vision_llm_block is not None and not 0 <= vision_llm_block < language_config.num_hidden_layers:
        raise UserError(
            f"the language model has no layer {vision_llm_block}; choose 0 to {language_config.num_hidden_layers - 1}"
        )
    on_progress(what, 1, 3)
    tower_config, tower = read_clip_vision(tower_file)
    if not 1 <= blocks <= tower_config.num_hidden_layers:
        raise UserError(f"the image tower has {tower_config.num_hidden_layers} blocks; {blocks} cannot be kept of them")
    tower_config.num_hidden_layers = blocks
    tower_config.image_size = image_size
    config = MiniGPTv2Config(
        vision_config=tower_config,
        text_config=language_config,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_llm_block=vision_llm_block,
    )
    weights = {f"model.vision_tower.{key}": tensor for key, tensor in _kept(tower, config).items()}
    weights["model.vision_norm.weight"] = torch.ones(tower_config.hidden_size)
    weights["model.vision_norm.bias"] = torch.zeros(tower_config.hidden_size)
    if vision_llm_block is not None:
        weights |= _vision_block(config, language)
    if bridge is None:
        weights |= _random_projector(config, float(language["embed_tokens.weight"].std()))
    else:
        weights |= _read_projector(config, bridge)
        language = merge_lora(language, bridge)
    weights |= {f"model.language_model.{key}": tensor for key, tensor in language.items()}
    weights["lm_head.weight"] = language["embed_tokens.weight"]
    with torch.device("meta"):
        model = MiniGPTv2ForConditionalGeneration(config)
    model.load_state_dict(weights, strict=True, assign=True)
    model.tie_weights()
    if model.model.vision_block is not None:
        _calibrate(model.model.vision_block)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    processor = MiniGPTv2Processor(
        image_processor=CLIPImageProcessorPil(
            size={"height": image_size, "width": image_size}, do_center_crop=False, resample=3, do_convert_rgb=True
        ),
        tokenizer=tokenizer,
        num_image_tokens=config.image_seq_length,
        chat_template=load_template("chatml"),
    )
    on_progress(what, 2, 3)
    _save(directory, model, processor, bridge)
    on_progress(what, 3, 3)
    return directory


def _save(
    directory: Path, model: MiniGPTv2ForConditionalGeneration, processor: MiniGPTv2Processor, bridge: Path | None
) -> None:
    """Write everything beside `directory` and move it there in one step."""
    with storage_errors(directory.parent), _no_bars_of_transformers():
        directory.parent.mkdir(parents=True, exist_ok=True)
        size = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
        check_room(directory.parent, size + 50_000_000, f"assembling {directory.name}")
        building = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}.building-"))
        try:
            model.save_pretrained(building)
            processor.save_pretrained(building)
            write_card(building, name=directory.name, config=model.config, bridge=bridge)
            # Some of these files are made private; a cache that several users share needs readers.
            for path in building.iterdir():
                path.chmod(0o644)
            building.chmod(0o755)
            building.rename(directory)
        except SafetensorError as error:  # which hides what the system said in its text
            raise UserError(f"the weights cannot be written to {directory.parent}: {error}") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)


@contextmanager
def _no_bars_of_transformers() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _kept(tower: dict[str, torch.Tensor], config: MiniGPTv2Config) -> dict[str, torch.Tensor]:
    """The tower's weights without later blocks and the final norm that the model does not use, positions resized."""
    kept = {}
    for key, tensor in tower.items():
        layer = key.removeprefix("encoder.layers.").partition(".")[0] if key.startswith("encoder.layers.") else None
        if key.startswith("post_layernorm.") or (layer and int(layer) >= config.vision_config.num_hidden_layers):
            continue
        kept[key] = tensor
    positions = "embeddings.position_embedding.weight"
    kept[positions] = resize_position_embeddings(kept[positions], config.grid_width)
    return kept


def _random_projector(config: MiniGPTv2Config, embedding_std: float) -> dict[str, torch.Tensor]:
    """Outputs as large as word embeddings: normed inputs have variance 1, so each weight takes std / sqrt(width)."""
    inputs, outputs = config.vision_config.hidden_size * config.fold, config.text_config.hidden_size
    matrix = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0))
    return {
        "model.projector.weight": matrix * embedding_std * inputs**-0.5,
        "model.projector.bias": torch.zeros(outputs),
    }


def _read_projector(config: MiniGPTv2Config, bridge: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(bridge / "projector.safetensors")
    inputs, outputs = config.vision_config.hidden_size * config.fold, config.text_config.hidden_size
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if found != (expected := {"weight": (outputs, inputs), "bias": (outputs,)}):
        raise UserError(f"{bridge / 'projector.safetensors'} holds {found}, but this model needs {expected}")
    return {f"model.projector.{key}": tensor.float() for key, tensor in tensors.items()}


def _vision_block(config: MiniGPTv2Config, language: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy of the language model's layer between two random linear layers.

    The first brings normed features to the scale of word embeddings, which is what the layer knows; the second is
    scaled by `_calibrate`.
    """
    generator = torch.Generator().manual_seed(1)
    vision, text = config.vision_config.hidden_size, config.text_config.hidden_size
    scale = float(language["embed_tokens.weight"].std())
    prefix = f"layers.{config.vision_llm_block}."
    block = {
        f"layer.{key.removeprefix(prefix)}": tensor.clone()
        for key, tensor in language.items()
        if key.startswith(prefix)
    }
    block["project_in.weight"] = torch.randn(text, vision, generator=generator) * scale * vision**-0.5
    block["project_in.bias"] = torch.zeros(text)
    block["project_out.weight"] = torch.randn(vision, text, generator=generator) * text**-0.5
    block["project_out.bias"] = torch.zeros(vision)
    return {f"model.vision_block.{key}": tensor for key, tensor in block.items()}


@torch.no_grad()
def _calibrate(block: VisionLLMBlock) -> None:
    """Make what comes out of the block as large as what goes in, or the projector would start far too loud."""
    noise = torch.randn(1, 256, block.project_in.in_features, generator=torch.Generator().manual_seed(2))
    block.project_out.weight /= block(noise).std()
