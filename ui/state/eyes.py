"""What the eyes of an endpoint saw, fetched when somebody wants to look at it: heat maps, and outlines of boxes."""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import httpx
import numpy as np
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment
from fourfold.prompts.errors import UserError
from fourfold.ui.state.endpoint import Endpoint
from fourfold.ui.state.pictures import decoded

_SECONDS = 60.0
_SIDE = 768  # pixels of an outline's longer side; the screen shows no more
_FILL, _EDGE = (255, 255, 255, 70), (255, 255, 255, 255)


@dataclass(frozen=True)
class HeatMap:
    """How much each part of a picture looks like a thing."""

    phrase: str
    presence: float  # chance that the thing is in the picture at all
    rows: tuple[tuple[float, ...], ...]  # 0..1, the first row is the top


@lru_cache(maxsize=32)
def heat_map(endpoint: Endpoint, model: str, picture: Attachment, phrase: str, stamp: tuple[int, ...] = ()) -> HeatMap:
    """Ask an endpoint's eyes for their map of a phrase.

    Args:
        endpoint: that is asked.
        model: its name there.
        picture: that is looked at.
        phrase: what is looked for.
        stamp: of the things shown once; a map from before they changed is not given again.

    Raises:
        UserError: the endpoint has no eyes, does not know the thing, or does not answer.
    """
    told = _asked(endpoint, model, picture, phrase)
    if told.get("map", "") is None:
        raise UserError(f"the eyes know no word of “{phrase}”, so there is no heat map of it")
    try:
        grid = told["map"]
        values = np.asarray(grid["values"], float).reshape(int(grid["rows"]), int(grid["columns"])).clip(0, 1)
        return HeatMap(str(told["phrase"]), float(told["presence"]), tuple(map(tuple, values.round(3).tolist())))
    except (KeyError, TypeError, ValueError):
        raise UserError("the endpoint's heat map cannot be read") from None


def knows_what_was_shown(endpoint: Endpoint, model: str, picture: Attachment, name: str) -> bool:
    """Whether an endpoint's eyes know a thing from having been shown it; False where they cannot be asked."""
    try:
        return _asked(endpoint, model, picture, name).get("source") == "shown once"
    except UserError:
        return False


def _asked(endpoint: Endpoint, model: str, picture: Attachment, phrase: str) -> dict[str, Any]:
    body = {"model": model, "image": picture.data_uri, "phrase": phrase}
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    try:
        answer = httpx.post(f"{endpoint.url.rstrip('/')}/eyes", json=body, headers=headers, timeout=_SECONDS)
        told: Any = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise UserError(f"the endpoint shows no heat map ({type(error).__name__})") from None
    if not answer.is_success:
        complaint = told.get("error") if isinstance(told, dict) else None
        words = complaint.get("message") if isinstance(complaint, dict) else None
        raise UserError(str(words) if words else f"the endpoint shows no heat map (HTTP {answer.status_code})")
    if not isinstance(told, dict):
        raise UserError("the endpoint's heat map cannot be read")
    return told


@lru_cache(maxsize=32)
def outline(picture: Attachment, boxes: tuple[Box, ...]) -> str:
    """Data URI of a see-through picture that marks what the boxes hold, outline and inside.

    Raises:
        UserError: the extra `tools` is not installed, or its weights cannot be fetched.
    """
    from fourfold.assistant.tools import segment  # brings torch

    image = decoded(picture)
    whole = np.zeros((image.height, image.width), bool)
    for box in boxes:
        whole |= segment(image, box=box).pixels
    small = Image.fromarray(whole)
    small.thumbnail((_SIDE, _SIDE))
    mask = np.asarray(small)
    inner = mask.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            inner &= np.roll(mask, step, axis)
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[mask], pixels[mask & ~inner] = _FILL, _EDGE
    out = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(out, "PNG")
    return Attachment(out.getvalue()).data_uri
