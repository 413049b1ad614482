"""How figures, tables, pictures and pages are written, for whatever was measured."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from fourfold.assistant.images import load_image_file
from fourfold.eval.data.table import picture_at
from fourfold.eval.statistics import Estimate
from fourfold.prompts.errors import UserError

_THUMBNAIL = 360  # pixels

Figure = Estimate | Mapping[str, Any] | float | None
"""An estimate, also as JSON; a bare number; or None for a cell that stays empty."""


def figure(estimate: Figure, digits: int = 1, sign: str = "") -> str:
    """`46.9 [45.6, 48.2]`, with the interval where there is one."""
    if estimate is None:
        return ""
    if isinstance(estimate, (int, float)):
        return f"{estimate:{sign}.{digits}f}"
    value, low, high = (_numbers(estimate)[name] for name in ("value", "low", "high"))
    text = f"{value:{sign}.{digits}f}"
    return text if low is None else f"{text} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def signed(comparison: Figure) -> str:
    """A difference, or that of a paired comparison: `+3.1 [-0.2, +6.4]`."""
    if isinstance(comparison, Mapping):
        comparison = comparison.get("difference", comparison)
    return figure(comparison, sign="+")


def _numbers(estimate: Estimate | Mapping[str, Any]) -> Mapping[str, Any]:
    return {"low": None, "high": None} | (asdict(estimate) if isinstance(estimate, Estimate) else dict(estimate))


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> list[str]:
    """The lines of a Markdown table; the columns `numbers` are set to the right."""
    rule = "".join("|---:" if column in numbers else "|---" for column in range(len(heads))) + "|"
    return [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(map(str, row))} |" for row in rows)]


def thumbnail(image: Image.Image, size: int = _THUMBNAIL) -> str:
    """A small JPEG as a data URI."""
    small = image.convert("RGB")
    small.thumbnail((size, size))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def shown_picture(reference: str | None) -> str | None:
    """The thumbnail of an image as runs name it: a file, or a cell of a table; None where it is gone."""
    try:
        if reference is None:
            return None
        stored = picture_at(reference)
        return thumbnail(stored.open() if stored is not None else load_image_file(reference))
    except UserError:
        return None


def page(template: str, **values: Any) -> str:
    """One HTML file without any outside part: styles, images and bars are in it."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"figure": figure, "signed": signed, "percent_box": _percent_box}
    return environment.get_template(template).render(**values)


def _percent_box(box: Sequence[float], size: Sequence[int]) -> dict[str, float]:
    """A pixel box as left, top, width and height in percent of the image."""
    (x1, y1, x2, y2), (width, height) = box, size
    share = {"left": x1 / width, "top": y1 / height, "width": (x2 - x1) / width, "height": (y2 - y1) / height}
    return {side: 100 * value for side, value in share.items()}
