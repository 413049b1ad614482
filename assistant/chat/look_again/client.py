"""Asking a model again within limits: every question is a step that somebody can watch, stop and pay for."""

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.images import image_url

Ask = Callable[[list[dict[str, Any]], list[Image.Image]], str]
"""`ask(messages, images) -> text`: messages as in OpenAI chat completions, where a part `{"type": "image"}` stands for
the next image of the list."""


@dataclass(frozen=True)
class Budget:
    """What looking again may cost."""

    calls: int = 16  # questions to the model at most
    seconds: float = 60.0  # no question is begun after this time; one that is running is not broken off


@dataclass(frozen=True)
class Step:
    """Something that happened, for a user interface to show at once."""

    kind: str  # "asked", "failed", "verdict", "closer", "read", "agreement" or "stopped"
    text: str  # one line for people
    calls: int  # questions asked so far
    seconds: float  # since the start
    question: str | None = None  # of "asked"
    answer: str | None = None
    box: Box | None = None  # the region that was looked at, in the whole image


class Stopped(Exception):
    """Looking again ended early; the message says why. Raised and caught within this package."""


class BudgetedClient:
    """Puts questions to a model until the budget is spent, somebody cancels, or the model fails twice running.

    Args:
        ask: the model.
        budget: of calls and time.
        cancel: when set, no further question is asked.
        on_step: called with every step, in the caller's thread.
    """

    def __init__(
        self,
        ask: Ask,
        budget: Budget | None = None,
        cancel: threading.Event | None = None,
        on_step: Callable[[Step], object] | None = None,
    ) -> None:
        self._ask = ask
        self._budget = budget or Budget()
        self._cancel = cancel
        self._on_step = on_step
        self._start = time.monotonic()
        self._failures = 0
        self._known: dict[tuple[str, Box | None], str] = {}
        self.calls = 0
        self.steps: list[Step] = []

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def question(self, image: Image.Image, text: str, *, region: Box | None = None) -> str | None:
        """Ask about the image, or about the part of it in `region`; None where the model failed to answer.

        What is known already is not asked twice.

        Raises:
            Stopped: the budget is spent, somebody cancelled, or the model failed twice running.
        """
        if (text, region) in self._known:
            return self._known[text, region]
        if self._cancel is not None and self._cancel.is_set():
            raise Stopped("cancelled")
        if self.calls >= self._budget.calls:
            raise Stopped(f"the budget of {self._budget.calls} questions is spent")
        if self.seconds >= self._budget.seconds:
            raise Stopped(f"the budget of {self._budget.seconds:g} seconds is spent")
        self.calls += 1
        shown = image if region is None else crop(image, region)
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
        try:
            answer = self._ask([message], [shown])
        except Exception as error:  # whatever a client raises: the answer in hand must survive it
            self._failures += 1
            self.tell("failed", f"the model did not answer: {error}", question=text, box=region)
            if self._failures == 2:
                raise Stopped("the model failed twice running") from error
            return None
        self._failures = 0
        self.know(text, answer, region)
        self.tell("asked", f"{text} {answer}", question=text, answer=answer, box=region)
        return answer

    def know(self, text: str, answer: str, region: Box | None = None) -> None:
        self._known[text, region] = answer

    def tell(self, kind: str, text: str, **details: Any) -> None:
        step = Step(kind, one_line(text), self.calls, self.seconds, **details)
        self.steps.append(step)
        if self._on_step is not None:
            self._on_step(step)


def one_line(text: str, longest: int = 200) -> str:
    """Model text for a line of its own: white space made single, the end of long text cut off."""
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def crop(image: Image.Image, region: Box) -> Image.Image:
    """The pixels of a region at full resolution, at least one."""
    x1, y1, x2, y2 = (round(side) for side in region.to_pixels(image.width, image.height))
    x1, y1 = min(x1, image.width - 1), min(y1, image.height - 1)
    return image.crop((x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)))


def around(box: Box, *, margin: float = 0.25, least: float = 0.2) -> Box:
    """A region around a box: a margin of its own sides, and sides of at least `least` of the image."""
    sides = []
    for low, high in ((box.x1, box.x2), (box.y1, box.y2)):
        half = max((high - low) * (0.5 + margin), least / 2)
        middle = min(max((low + high) / 2, half), 1 - half) if half < 0.5 else 0.5
        sides.append((max(middle - half, 0.0), min(middle + half, 1.0)))
    (x1, x2), (y1, y2) = sides
    return Box(x1, y1, x2, y2)


def inside(region: Box, box: Box) -> Box:
    """A box of a region's crop, in the whole image."""
    width, height = region.x2 - region.x1, region.y2 - region.y1
    x1, x2 = (min(region.x1 + x * width, 1.0) for x in (box.x1, box.x2))
    y1, y2 = (min(region.y1 + y * height, 1.0) for y in (box.y1, box.y2))
    return Box(x1, y1, x2, y2)


def yes_or_no(answer: str | None) -> bool | None:
    """What an answer says to a yes/no question; None for anything else."""
    match = re.match(r"\W*(yes|no)\b", answer or "", re.IGNORECASE)
    return None if match is None else match.group(1).lower() == "yes"


def with_images(messages: Sequence[dict[str, Any]], images: Sequence[Image.Image]) -> list[dict[str, Any]]:
    """Messages of `Ask` with the images in their parts, `{"type": "image", "image": image}`, as engines take them.

    Raises:
        ValueError: there are more or fewer images than parts for them.
    """
    return _filled(messages, [{"type": "image", "image": image} for image in images])


def ask_with(model: Any) -> Ask:
    """An `Ask` of a LangChain chat model, such as `assistant.chat.conversation.connect` makes."""

    def ask(messages: list[dict[str, Any]], images: list[Image.Image]) -> str:
        parts = [{"type": "image_url", "image_url": {"url": image_url(image)}} for image in images]
        return str(model.invoke(_filled(messages, parts)).text)

    return ask


def _filled(messages: Sequence[dict[str, Any]], images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with image parts in place of those that stand for them."""
    left = list(images)
    filled = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            if sum(part["type"] == "image" for part in content) > len(left):
                raise ValueError("a message has more image parts than there are images")
            content = [left.pop(0) if part["type"] == "image" else part for part in content]
        filled.append({**message, "content": content})
    if left:
        raise ValueError(f"{len(left)} images have no part in the messages")
    return filled
