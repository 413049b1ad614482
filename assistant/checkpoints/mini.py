"""The default model, fourfold-mini: public weights and this repository's bridge put together."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import CLIPImageProcessorPil, GenerationConfig
from transformers.utils import logging

from fourfold.assistant.checkpoints.bridge import BLOCKS, FOLD_SHAPE, IMAGE_SIZE, LEARNT_BESIDE, read_geometry
from fourfold.assistant.checkpoints.cache import check_room, storage_errors
from fourfold.assistant.checkpoints.clip_onnx import read_clip_vision
from fourfold.assistant.checkpoints.index import write_index
from fourfold.assistant.checkpoints.llama_gguf import GGUFFile
from fourfold.assistant.checkpoints.lora import merge_lora
from fourfold.assistant.checkpoints.positions import resize_position_embeddings
from fourfold.assistant.checkpoints.weights import IMAGE_TOWER, LANGUAGE_MODEL, PinnedFile, fetch
from fourfold.assistant.files import building
from fourfold.assistant.model import IMAGE_TOKEN, MiniGPTv2Config, MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.prompts.chat import load_template
from fourfold.prompts.errors import UserError

# One of SmolLM2's control tokens that its training never used: its embedding equals that of its unused neighbours.
_SPARE_TOKEN = "<empty_output>"
_LICENCES = Path(__file__).parent / "licences"
_TRAINED = """\
## Bridge
The projector and a LoRA adapter, which is merged into the language model, were trained by fourfold. `bridge.json`
says on which data, how long, from which seed, and what was measured on images that were held out.
The photos and annotations they were trained on allow research use only; take these weights for nothing else.
"""
_UNTRAINED = """\
## Bridge
There is none: the projector is random and the language model as it was published, so this model **cannot see**. It is
where training starts.
"""


def assemble(
    directory: Path,
    *,
    bridge: Path | None,
    image_size: int = IMAGE_SIZE,
    blocks: int = BLOCKS,
    fold_shape: str = FOLD_SHAPE,
    on_progress: OnProgress = lambda event: None,
) -> Path:
    """Make a checkpoint directory of the public weights, downloading them where they are not cached.

    The directory appears whole or not at all.

    Args:
        directory: where to; it must not exist.
        bridge: directory with the trained projector and LoRA adapter, which is merged; None for a random projector
            (seeded, at the scale of the word embeddings) and the language model as it is.
        image_size: pixels; a multiple of the patch size whose grid divides into folds.
        blocks: how many of the tower's first blocks to keep; the last kept one's output is what the projector sees.
        fold_shape: how the four neighbours lie that become one token, "row" or "square".
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
        asked = {"image_size": image_size, "blocks": blocks, "fold_shape": fold_shape}
        if (trained := read_geometry(bridge)) != asked:
            raise UserError(f"the bridge {bridge} was trained for {trained}, which does not go with {asked}")
    tower_file, language_file = fetch(IMAGE_TOWER, on_progress), fetch(LANGUAGE_MODEL, on_progress)
    what = f"Assembling {directory.name}"
    on_progress(Progress(what, 0, 3))
    gguf = GGUFFile(language_file)
    tokenizer = gguf.tokenizer(renamed={_SPARE_TOKEN: IMAGE_TOKEN})
    language_config, language = gguf.config(), gguf.weights()
    language_config.bos_token_id = tokenizer.bos_token_id
    language_config.eos_token_id = tokenizer.eos_token_id
    language_config.pad_token_id = tokenizer.pad_token_id
    on_progress(Progress(what, 1, 3))
    tower_config, tower = read_clip_vision(tower_file)
    if not 1 <= blocks <= tower_config.num_hidden_layers:
        raise UserError(f"the image tower has {tower_config.num_hidden_layers} blocks; {blocks} cannot be kept of them")
    tower_config.num_hidden_layers = blocks
    tower_config.image_size = image_size
    try:
        config = MiniGPTv2Config(
            vision_config=tower_config,
            text_config=language_config,
            image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            fold_shape=fold_shape,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    weights = {f"model.vision_tower.{key}": tensor for key, tensor in _kept(tower, config).items()}
    weights["model.vision_norm.weight"] = torch.ones(tower_config.hidden_size)
    weights["model.vision_norm.bias"] = torch.zeros(tower_config.hidden_size)
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
    on_progress(Progress(what, 2, 3))
    _save(directory, model, processor, bridge)
    on_progress(Progress(what, 3, 3))
    return directory


def _save(
    directory: Path, model: MiniGPTv2ForConditionalGeneration, processor: MiniGPTv2Processor, bridge: Path | None
) -> None:
    """Write everything beside `directory` and move it there in one step."""
    with storage_errors(directory.parent), _no_bars_of_transformers():
        directory.parent.mkdir(parents=True, exist_ok=True)
        size = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
        check_room(directory.parent, size + 50_000_000, f"assembling {directory.name}")
        try:
            with building(directory) as part:
                model.save_pretrained(part)
                processor.save_pretrained(part)
                write_card(part, name=directory.name, config=model.config, bridge=bridge)
                write_index(part)
        except SafetensorError as error:  # which hides what the system said in its text
            raise UserError(f"the weights cannot be written to {directory.parent}: {error}") from error


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


def write_card(directory: Path, *, name: str, config: MiniGPTv2Config, bridge: Path | None) -> None:
    """Write `README.md` and the licences, and copy what the bridge tells and brings, into a checkpoint directory.

    Args:
        directory: the checkpoint.
        name: the model's name.
        config: its sizes.
        bridge: the bridge it was made with, or None.
    """
    vision, text = config.vision_config, config.text_config
    cell = " x ".join(map(str, config.fold_cell))
    card = f"""\
# {name}

A chat model that sees, in MiniGPT-v2's architecture: {vision.image_size} px images, {config.grid_width} x \
{config.grid_width} patches, every {config.fold} neighbours ({cell}) folded into one, {config.image_seq_length} \
tokens an image.
It is small and knows little; do not rely on what it says.

## Parts
| part | what | from | licence |
|---|---|---|---|
| image tower, frozen | CLIP ViT-B/16, the first {vision.num_hidden_layers} blocks, INT8 weights made float32 \
| {_origin(IMAGE_TOWER)} | {IMAGE_TOWER.licence} (`LICENSE-CLIP.txt`) |
| language model | SmolLM2-135M-Instruct, {text.num_hidden_layers} layers, Q4_1 weights made float32 \
| {_origin(LANGUAGE_MODEL)} | {LANGUAGE_MODEL.licence} (`LICENSE-SmolLM2.txt`) |

The control token `<empty_output>` of SmolLM2's vocabulary is renamed `<ImageHere>`; position embeddings are
interpolated to the image size. Nothing else of the published weights is changed.

{_UNTRAINED if bridge is None else _TRAINED}"""
    (directory / "README.md").write_text(card, encoding="utf-8")
    shutil.copyfile(_LICENCES / "MIT-CLIP.txt", directory / "LICENSE-CLIP.txt")
    shutil.copyfile(_LICENCES / "Apache-2.0.txt", directory / "LICENSE-SmolLM2.txt")
    if bridge is not None:
        for name in ("bridge.json", *LEARNT_BESIDE):
            if (bridge / name).is_file():
                shutil.copyfile(bridge / name, directory / name)


def _origin(pinned: PinnedFile) -> str:
    return f"`{pinned.member}` in PyPI's {pinned.package} {pinned.version}, sha256 `{pinned.sha256}`"
