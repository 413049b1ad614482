"""The bridge of the default model: projector and LoRA adapter that this repository trained, with their history."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourfold.prompts.errors import UserError

BRIDGE = Path(__file__).parent / "bridge"
"""Where this repository ships it."""
BRIDGE_FILES = ("projector.safetensors", "adapter_model.safetensors", "adapter_config.json", "bridge.json")
LEARNT_BESIDE = ("calibration.json", "card.json", "readouts.safetensors")
"""Files that a bridge may have, and that checkpoints made with it get a copy of: learnt from the model they are for."""
IMAGE_SIZE = 256
"""Pixels: 16 x 16 patches, 64 tokens an image; at CLIP's own 224 the grid of 14 does not divide into rows of four."""
BLOCKS = 11
"""Blocks kept of CLIP's 12: the next-to-last block says more of places than the last, which serves the class token."""
FOLD_SHAPE = "row"
"""As in MiniGPT-v2: four neighbours from left to right become one token."""
_GEOMETRY = {"image_size": IMAGE_SIZE, "blocks": BLOCKS, "fold_shape": FOLD_SHAPE}


def check_bridge(bridge: Path) -> None:
    """See that a bridge's files are all there.

    Raises:
        UserError: one is missing.
    """
    if missing := [name for name in BRIDGE_FILES if not (bridge / name).is_file()]:
        raise UserError(
            f"the trained bridge at {bridge} lacks {', '.join(missing)}; install fourfold again, train a bridge with "
            "`fourfold train`, or take fourfold-mini-base, which has none and has not learnt to see"
        )


def read_geometry(bridge: Path) -> dict[str, Any]:
    """What a bridge was trained for: `image_size` (pixels), `blocks` and `fold_shape`, as `assemble` takes them.

    They stand in `bridge.json` under "geometry"; what is not said there has the default model's value.

    Raises:
        UserError: a file of the bridge is missing, `bridge.json` is not a JSON object, or it tells of a vision block.
    """
    check_bridge(bridge)
    try:
        said = json.loads((bridge / "bridge.json").read_text(encoding="utf-8")).get("geometry", {})
        geometry = {name: said.get(name, usual) for name, usual in _GEOMETRY.items()}
        vision_block = said.get("vision_llm_block")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{bridge / 'bridge.json'} cannot be read ({error})") from error
    if vision_block is not None:
        raise UserError(f"the bridge {bridge} was trained with a vision block, whose weights a bridge does not hold")
    return geometry


def forget_figures(checkpoint: Path, made: Mapping[str, object]) -> None:
    """Take what was measured out of a checkpoint's `bridge.json`, where it has one: it is of the model before.

    Args:
        checkpoint: that was made of another.
        made: what is written in place of it, how it was made.
    """
    path = checkpoint / "bridge.json"
    if path.is_file():
        told = json.loads(path.read_text(encoding="utf-8"))
        told.pop("held_out", None)
        path.write_text(json.dumps(told | dict(made), indent=2) + "\n", encoding="utf-8")
