"""Names of the colours that the pixels of a place have."""

import numpy as np
from PIL import Image

from fourfold.assistant.english import COLOURS

_PIXELS = 12  # a side of a patch that are looked at
# Typical sRGB values of each name; a pixel is called by the nearest in CIELAB.
_TYPICAL: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((180, 30, 40), (120, 20, 30), (215, 40, 50)),
    "blue": ((40, 80, 180), (20, 40, 100), (90, 140, 210), (10, 20, 240)),
    "green": ((50, 130, 60), (30, 70, 40), (110, 170, 80)),
    "yellow": ((230, 210, 50), (200, 180, 40)),
    "white": ((250, 250, 250), (220, 220, 225)),
    "black": ((15, 15, 15), (40, 40, 42)),
    "brown": ((110, 70, 40), (80, 50, 35), (140, 95, 65)),
    "orange": ((235, 125, 30), (210, 100, 40)),
    "pink": ((235, 140, 180), (220, 90, 140)),
    "purple": ((120, 50, 150), (80, 40, 110)),
    "gray": ((128, 128, 128), (160, 160, 162), (95, 95, 97)),
    "tan": ((200, 175, 140), (180, 150, 115)),
}
# Linear sRGB to XYZ (D65), relative to the white point: IEC 61966-2-1.
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = np.array([0.9505, 1.0, 1.089])


def colour_shares(image: Image.Image, weights: np.ndarray) -> dict[str, float]:
    """Of the pixels of a picture, weighted, the part that each colour's name fits best.

    Args:
        image: RGB.
        weights: (rows, columns) of the patches of the whole picture; together 1.

    Returns:
        By the names of `COLOURS`; together 1.
    """
    rows, columns = weights.shape
    small = image.convert("RGB").resize((columns * _PIXELS, rows * _PIXELS))
    pixels = to_lab(np.asarray(small))
    typical = to_lab(np.array([one for name in COLOURS for one in _TYPICAL[name]]))
    name_of = np.array([number for number, name in enumerate(COLOURS) for _ in _TYPICAL[name]])
    distances = ((pixels[:, :, None] - typical) ** 2).sum(-1)
    names = name_of[distances.argmin(-1)]
    each = np.kron(weights, np.full((_PIXELS, _PIXELS), 1 / _PIXELS**2))
    shares = np.bincount(names.ravel(), each.ravel(), len(COLOURS))
    return dict(zip(COLOURS, map(float, shares), strict=True))


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB 0..255 as CIELAB, L* 0..100 (CIE 1976)."""
    unit = rgb.astype(np.float64) / 255
    linear = np.where(unit > 0.04045, ((unit + 0.055) / 1.055) ** 2.4, unit / 12.92)
    part = linear @ _TO_XYZ.T / _WHITE
    root = np.where(part > (6 / 29) ** 3, np.cbrt(part), part * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
