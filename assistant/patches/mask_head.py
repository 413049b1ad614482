"""Masks within boxes from the frozen tower's patches: the principle of Mask Frozen-DETR (Liang et al. 2023).

Whatever finds the boxes stays as it is; a small head reads the patches and the pixels inside each box. It takes
milliseconds where a segmenter of its own takes a second, and its masks are coarser.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from fourfold.assistant.files import replacing
from fourfold.assistant.grounding import Box
from fourfold.prompts.errors import UserError

GRID = 28
"""Cells a side that a mask has inside its box."""
_MARGIN = 0.1  # of the box's sides, seen around it
_WIDTH = 32


class MaskHead(nn.Module):
    """Logits of the masks of boxes, from patches and pixels.

    Args:
        width: of the tower's features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Dropout(0.3), nn.Linear(width, _WIDTH), nn.Dropout(0.2))
        # What it sees of a cell: its patch, how like the box's middle that is, its colour, that against the middle's,
        # and its place in the box.
        self.layers = nn.Sequential(
            nn.Conv2d(2 * _WIDTH + 9, 2 * _WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * _WIDTH, 2 * _WIDTH, 3, padding=2, dilation=2),
            nn.GELU(),
            nn.Conv2d(2 * _WIDTH, _WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(_WIDTH, 1, 1),
        )

    def forward(self, patches: Tensor, colours: Tensor) -> Tensor:
        """(boxes, 28, 28) logits of what `look` gives: patches (boxes, 28, 28, width), colours (boxes, 28, 28, 3)."""
        reduced = self.reduce(patches)
        middle = slice(GRID // 4, -(GRID // 4))
        seen = reduced[:, middle, middle].mean((1, 2), keepdim=True)
        tone = colours[:, middle, middle].mean((1, 2), keepdim=True)
        line = torch.linspace(-1, 1, GRID)
        place = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).expand(len(reduced), -1, -1, -1)
        away = place.norm(dim=-1, keepdim=True)
        read = torch.cat([reduced, reduced * seen, colours, (colours - tone).abs(), place, away], -1)
        return self.layers(read.permute(0, 3, 1, 2))[:, 0]

    def masks(self, features: np.ndarray, image: Image.Image, boxes: Sequence[Box]) -> list[np.ndarray]:
        """The pixels of the thing in each box, (height, width) bool.

        Args:
            features: of the picture, (rows, columns, width), normalised.
            image: RGB.
            boxes: each with an area.

        Raises:
            UserError: a box has no area.
        """
        if not boxes:
            return []
        with torch.inference_mode():
            chances = self(*look(features, image, boxes)).sigmoid()
        found = []
        for box, chance in zip(boxes, chances, strict=True):
            mask = np.zeros((image.height, image.width), bool)
            x1, y1, x2, y2 = (round(side) for side in box.to_pixels(image.width, image.height))
            x2, y2 = min(max(x2, x1 + 1), image.width), min(max(y2, y1 + 1), image.height)
            x1, y1 = min(x1, x2 - 1), min(y1, y2 - 1)
            # Cells reach over the box by the margin; the mask ends with the box.
            down, across = (
                torch.linspace(-1, 1, 2 * cells + 1)[1::2] / (1 + 2 * _MARGIN) for cells in (y2 - y1, x2 - x1)
            )
            grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)[None]
            inside = F.grid_sample(chance[None, None], grid, align_corners=False, padding_mode="border")[0, 0]
            mask[y1:y2, x1:x2] = (inside > 0.5).numpy()
            found.append(mask)
        return found

    def save(self, path: Path, told: Mapping[str, object]) -> None:
        """Write the weights, in half precision, with what is told of them: `tower` and where they come from."""
        from safetensors.torch import save_file

        weights = {key: tensor.half().contiguous() for key, tensor in self.state_dict().items()}
        with replacing(path) as part:
            save_file(weights, part, metadata={key: str(value) for key, value in told.items()})

    @classmethod
    def load(cls, path: Path, tower: str) -> "MaskHead":
        """The head of a file that `save` wrote.

        Args:
            tower: whose features it will read, see `checkpoints.fingerprint.tower_fingerprint`.

        Raises:
            UserError: it is none, or was taught for another tower.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                taught_for = file.metadata()["tower"]
                weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
            head = cls(weights["reduce.1.weight"].shape[1])
            head.load_state_dict(weights)
        except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
            raise UserError(f"{path} holds no mask head: {str(error).splitlines()[0]}") from error
        if taught_for != tower:
            raise UserError(f"{path} was taught for another image tower ({taught_for}, not {tower})")
        return head.eval()


def look(features: np.ndarray, image: Image.Image, boxes: Sequence[Box]) -> tuple[Tensor, Tensor]:
    """What the head reads of each box: patches (boxes, 28, 28, width) and colours (boxes, 28, 28, 3), sampled on a grid
    that reaches over the box by a tenth of its sides.

    Raises:
        UserError: a box has no area.
    """
    if any(box.area <= 0 for box in boxes):
        raise UserError("a box without area holds no mask")
    corners = torch.tensor([box.as_tuple() for box in boxes])
    centre, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) * (0.5 + _MARGIN)
    line = torch.linspace(-1, 1, 2 * GRID + 1)[1::2]
    unit = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    grid = 2 * (centre[:, None, None] + half[:, None, None] * unit) - 1  # grid_sample has the picture in -1..1
    # Large pictures are shrunk first, so that a cell's colour is that of all it shows.
    small = np.array(image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR))
    sources = (torch.from_numpy(np.asarray(features, np.float32)), torch.from_numpy(small).float() / 255 - 0.5)
    patches, colours = (
        F.grid_sample(source.permute(2, 0, 1)[None].expand(len(boxes), -1, -1, -1), grid, align_corners=False,
                      padding_mode="border").permute(0, 2, 3, 1)
        for source in sources
    )  # fmt: skip
    return patches, colours


def target(mask: np.ndarray, box: Box) -> Tensor:
    """(28, 28), 0..1: what the head should say of a box whose thing has these pixels, (height, width) bool."""
    corners = torch.tensor(box.as_tuple())
    centre, half = (corners[:2] + corners[2:]) / 2, (corners[2:] - corners[:2]) * (0.5 + _MARGIN)
    fine = 2 * GRID  # two samples a cell each way
    line = torch.linspace(-1, 1, 2 * fine + 1)[1::2]
    unit = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    grid = 2 * (centre + half * unit)[None] - 1
    source = torch.tensor(mask, dtype=torch.float32)[None, None]
    return F.avg_pool2d(F.grid_sample(source, grid, align_corners=False, padding_mode="zeros"), 2)[0, 0]
