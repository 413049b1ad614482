"""How an answer appears: word by word, phrases with boxes in colour where there is a terminal; and looked at again."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fourfold.assistant.files import replacing
from fourfold.assistant.grounding import parse
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.requests import Completion, Delta, Request, Sampling

if TYPE_CHECKING:
    from PIL import Image
    from rich.text import Text

    from fourfold.assistant.chat.look_again import LookedAgain, Step
    from fourfold.serving.engine.engine import Engine
    from fourfold.serving.looking import Claim, Looking

_COLOURS = ("yellow", "cyan", "green", "magenta", "blue", "red")
_VERDICTS = {"supported": "green", "unsupported": "red", "unsure": "yellow"}


@dataclass(frozen=True)
class Answer:
    """An answer, and what it claims by the eyes; no claims where there are none."""

    completion: Completion
    claims: "tuple[Claim, ...]" = ()


@dataclass(frozen=True)
class Answering:
    """An engine, and its eyes where it has some."""

    engine: "Engine"
    eyes: "Looking | None" = None

    def answer(self, request: Request, *, show: bool = True) -> Answer:
        """The answer; with `show` it is printed as it comes."""
        if self.eyes is None:
            with contextlib.closing(self.engine.stream(request)) as deltas:
                return Answer(show_answer(deltas) if show else _last(deltas))
        with contextlib.closing(self.eyes.stream(request)) as looked:
            completion = show_answer(looked) if show else _last(looked)
        if show and sys.stdout.isatty():
            show_claims(looked.claims)
        return Answer(completion, looked.claims)

    def text(self, request: Request) -> str:
        """The answer's words."""
        return self.answer(request, show=False).completion.text


def _last(deltas: Iterator[Delta]) -> Completion:
    completion = None
    for delta in deltas:
        completion = delta.completion
    assert completion is not None  # the last delta carries it
    return completion


def show_claims(claims: "Sequence[Claim]") -> None:
    """One line for each thing: who says so, and how sure that is."""
    console = Console(highlight=False, soft_wrap=True)
    for claim in claims:
        sure = "" if claim.confidence is None else f", {claim.confidence:.0%} sure"
        console.print(f"  {claim.phrase or 'box'}: {claim.source}{sure}", style="dim", markup=False)


def show_answer(deltas: Iterator[Delta]) -> Completion:
    """Print an answer on stdout as it comes and return it whole.

    A pipe gets the text as the model writes it; on a terminal boxes are shortened and coloured.
    """
    if sys.stdout.isatty():
        return _show_live(deltas)
    completion = None
    for delta in deltas:
        print(delta.text, end="", flush=True)
        completion = delta.completion
    print()
    assert completion is not None  # the last delta carries it
    return completion


def _show_live(deltas: Iterator[Delta]) -> Completion:
    from rich.live import Live

    text, completion = "", None
    with Live(console=Console(highlight=False), refresh_per_second=20, vertical_overflow="visible") as live:
        for delta in deltas:
            text += delta.text
            completion = delta.completion
            live.update(coloured(text))
    assert completion is not None
    return completion


def coloured(text: str) -> "Text":
    """The answer with each grounded phrase in a colour, followed by its boxes in hundredths."""
    from rich.text import Text

    grounded = parse(text)
    out = Text()
    place = 0
    for number, phrase in enumerate(grounded.phrases):
        out.append(grounded.text[place : phrase.start])
        boxes = " ".join(
            "[{:.0f},{:.0f} {:.0f},{:.0f}]".format(*(100 * side for side in box.as_tuple())) for box in phrase.boxes
        )
        colour = _COLOURS[number % len(_COLOURS)]
        if phrase.phrase:
            out.append(f"{phrase.phrase} ", style=f"bold {colour}")
        out.append(boxes, style=f"dim {colour}")
        place = phrase.end
    out.append(grounded.text[place:])
    return out


def write_image(image: "Image.Image", path: Path) -> None:
    """Save an image in the format that its suffix names; the file appears whole or not at all.

    Raises:
        UserError: it cannot be written there.
    """
    try:
        with replacing(path) as part:
            image.save(part)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@dataclass(frozen=True)
class Looks:
    """Which second looks are wanted.

    Attributes:
        check: look at each claim of the answer again.
        closer: ask again about the region that matters.
    """

    check: bool
    closer: bool

    def __bool__(self) -> bool:
        return self.check or self.closer

    def take(self, answering: Answering, image: "Image.Image", question: str, completion: Completion) -> "LookedAgain":
        """Look again, telling on stderr what happens where somebody looks on."""
        from fourfold.assistant.chat.look_again import Budget, look_again, with_images

        def ask(messages: list[dict[str, Any]], images: list["Image.Image"]) -> str:
            return answering.text(Request(with_images(messages, images), Sampling(max_tokens=64)))

        console = Console(stderr=True, highlight=False)

        def show(step: "Step") -> None:
            console.print(f"  {step.text}", style="dim", markup=False)

        return look_again(
            ask,
            image,
            question,
            completion.text,
            check_claims=self.check,
            closer=self.closer,
            see=None if answering.eyes is None else answering.eyes.eyes(image).sighting,
            # Questions bound the cost; a bound in seconds would make an answer depend on how busy the machine is.
            budget=Budget(seconds=float("inf")),
            on_step=show if sys.stderr.isatty() else None,
        )


def show_looks(looked: "LookedAgain") -> None:
    """Print on stdout what came of looking again."""
    console = Console(highlight=False, soft_wrap=True)
    if looked.answer != looked.first:
        console.print(f"seen closer: {looked.answer}", markup=False)
    for checked in looked.claims_json():
        console.print(f"{checked['phrase']}: ", end="", markup=False)
        console.print(checked["verdict"], style=_VERDICTS[checked["verdict"]])
    if looked.stopped:
        console.print(f"stopped early: {looked.stopped}", style="dim", markup=False)
