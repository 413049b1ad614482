"""A map of patches laid over its picture."""

import numpy as np
from PIL import Image

_STRENGTH = 0.6  # of the colour where the map is 1


def heat_map(image: Image.Image, values: np.ndarray) -> Image.Image:
    """The picture in grey with a map over it: from blue, hardly there, over yellow to red.

    Args:
        image: any mode.
        values: (rows, columns), 0..1; what is beyond is cut off.
    """
    import matplotlib

    rows = np.clip(np.nan_to_num(np.asarray(values, np.float32)), 0, 1)
    smooth = Image.fromarray(rows).resize(image.size, Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(smooth), 0, 1)
    colours = matplotlib.colormaps["turbo"](strength)[..., :3] * 255
    grey = np.asarray(image.convert("L"), np.float32)[..., None]
    cover = _STRENGTH * strength[..., None]
    return Image.fromarray((grey * (1 - cover) + colours * cover).round().astype(np.uint8))
