"""The model card of an assembled checkpoint: what is in it, where it came from, under which terms."""

import shutil
from pathlib import Path

from fourfold.assistant.checkpoints.weights import IMAGE_TOWER, LANGUAGE_MODEL, PinnedFile
from fourfold.assistant.model import MiniGPTv2Config

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


def write_card(directory: Path, *, name: str, config: MiniGPTv2Config, bridge: Path | None) -> None:
    """Write `README.md` and the licences, and copy `bridge.json`, into a checkpoint directory.

    Args:
        directory: the checkpoint.
        name: the model's name.
        config: its sizes.
        bridge: the bridge it was made with, or None.
    """
    vision, text = config.vision_config, config.text_config
    card = f"""\
# {name}

A chat model that sees, in MiniGPT-v2's architecture: {vision.image_size} px images, {config.grid_width} x \
{config.grid_width} patches, every {config.fold} neighbours folded into one, {config.image_seq_length} tokens an image.
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
        shutil.copyfile(bridge / "bridge.json", directory / "bridge.json")


def _origin(pinned: PinnedFile) -> str:
    return f"`{pinned.member}` in PyPI's {pinned.package} {pinned.version}, sha256 `{pinned.sha256}`"
