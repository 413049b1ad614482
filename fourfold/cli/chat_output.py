"""How an answer appears: word by word, phrases with boxes in colour where there is a terminal; and looked at again."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fourfold.assistant.files import replacing
from fourfold.assistant.grounding import Box, Grounded, GroundedPhrase, draw, parse, parse_so_far
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task
from fourfold.serving.engine.requests import Completion, Delta, Request, Sampling, completed

if TYPE_CHECKING:
    from PIL import Image
    from rich.text import Text

    from fourfold.assistant.chat.look_again import LookedAgain, Step
    from fourfold.serving.engine.engine import Engine
    from fourfold.serving.looking import Claim, Looking

_COLOURS = ("yellow", "cyan", "green", "magenta", "blue", "red")
_TAG = re.compile(rf"\[(?:{'|'.join(Task)})\] ?")
_MARKS = re.compile(r"</?p>|<delim>")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_VERDICTS = {"supported": "green", "unsupported": "red", "unsure": "yellow"}


@dataclass(frozen=True)
class Answer:
    """An answer, and what it claims by the eyes; no claims where there are none."""

    completion: Completion
    claims: "tuple[Claim, ...]" = ()


@dataclass(frozen=True)
class Answering:
    """An engine, and its eyes where it has some; `waiting` is entered wherever something is waited for."""

    engine: "Engine"
    eyes: "Looking | None" = None
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext

    def answer(self, request: Request, *, show: bool = True, name: str | None = None) -> Answer:
        """The answer; with `show` it is printed as it comes, boxes without words under `name`."""
        if self.eyes is None:
            with contextlib.closing(self.engine.stream(request)) as deltas:
                return Answer(self._completed(deltas, name, show=show))
        with self.waiting():
            looked = self.eyes.stream(request)
        with contextlib.closing(looked):
            completion = self._completed(looked, name, show=show)
        # What is said because a person once corrected it is nobody's claim.
        claims = looked.claims if request.forced_answer is None else ()
        if show and sys.stdout.isatty():
            show_claims(claims)
        return Answer(completion, claims)

    def _completed(self, deltas: Iterator[Delta], name: str | None, *, show: bool) -> Completion:
        awaited = self._awaited(deltas)
        return show_answer(awaited, name) if show else completed(awaited)

    def _awaited(self, deltas: Iterator[Delta]) -> Iterator[Delta]:
        while True:
            with self.waiting():
                delta = next(deltas, None)
            if delta is None:
                return
            yield delta

    def text(self, request: Request) -> str:
        """The answer's words."""
        return self.answer(request, show=False).completion.text


def show_claims(claims: "Sequence[Claim]") -> None:
    """One line for each thing: who says so, and how sure that is."""
    from fourfold.serving.looking.claim import percent

    console = Console(highlight=False, soft_wrap=True)
    for claim in claims:
        sure = "" if claim.confidence is None else f", {percent(claim.confidence)} sure"
        console.print(f"  {claim.phrase or 'box'}: {claim.source}{sure}", style="dim", markup=False)


def asked_for(question: str) -> str | None:
    """What a question asks the place of, which names a box that comes without words; None where it asks for none."""
    from fourfold.assistant.chat.intent import intent_of

    intent = intent_of(question)
    return None if intent is None else intent.phrase or None


def asked_about(request: Request, images: "Sequence[Image.Image]", *, eyes: bool) -> "Image.Image | None":
    """The picture that an answer and its boxes are about; with eyes the one that the question names by its number."""
    from fourfold.serving.looking.question import read_question

    return (read_question(request.messages).image if eyes else None) or (images[-1] if images else None)


def show_answer(deltas: Iterator[Delta], name: str | None = None) -> Completion:
    """Print an answer on stdout as it comes, in colours where there is a terminal, and return it whole.

    Boxes are shown behind their words, or `name`, in hundredths of the picture: `dog [12,30 56,80]`.
    """
    text, printed, completion = "", "", None
    if sys.stdout.isatty():
        from rich.live import Live

        console = Console(highlight=False)
        with Live(console=console, refresh_per_second=20, vertical_overflow="visible") as live:
            for delta in deltas:
                text += delta.text
                completion = delta.completion
                live.update(coloured(parse_so_far(text) if completion is None else parse(text), name))
    else:
        for delta in deltas:
            text += delta.text
            completion = delta.completion
            so_far = plain(parse_so_far(text) if completion is None else parse(text), name)
            if completion is None:
                so_far = so_far.rstrip()  # a gap may yet close
            elif not so_far.startswith(printed):  # broken markup: all of it once more
                print()
                printed = ""
            if so_far.startswith(printed):
                print(so_far[len(printed) :], end="", flush=True)
                printed = so_far
        print()
    assert completion is not None  # the last delta carries it
    return completion


def coloured(grounded: Grounded, name: str | None = None) -> "Text":
    """An answer for a terminal, each phrase and its boxes in a colour; see `_pieces`."""
    from rich.text import Text

    # What a model writes does not steer the terminal.
    return Text.assemble(*((_CONTROL.sub("", words), style) for words, style in _pieces(grounded, name)))


def plain(grounded: Grounded, name: str | None = None) -> str:
    """An answer for a pipe; see `_pieces`."""
    return "".join(words for words, _ in _pieces(grounded, name))


def _pieces(grounded: Grounded, name: str | None) -> Iterator[tuple[str, str]]:
    """Words and their styles: each phrase is followed by its boxes, and those without words are called `name`."""
    number = 0
    for segment in grounded.segments:
        if isinstance(segment, str):
            yield _MARKS.sub("", segment), ""
            continue
        colour = _COLOURS[number % len(_COLOURS)]
        number += 1
        if words := segment.phrase or name:
            yield f"{words} ", f"bold {colour}"
        yield " ".join(map(corners, segment.boxes)), f"dim {colour}"


def corners(box: Box) -> str:
    """A box as people read it here: `[12,30 56,80]`, left, top, right and bottom in hundredths of the picture."""
    return "[{:.0f},{:.0f} {:.0f},{:.0f}]".format(*(100 * side for side in box.as_tuple()))


def named(text: str, name: str | None) -> list[GroundedPhrase]:
    """The boxes of an answer; those that come without words are called `name`."""
    return [replace(phrase, phrase=phrase.phrase or name) for phrase in parse(text).phrases]


def save_boxes(image: "Image.Image", phrases: Sequence[GroundedPhrase], path: Path) -> None:
    """Save an image with boxes, and say so on stderr; where there are none, say that, and write nothing.

    Raises:
        UserError: it cannot be written.
    """
    boxes = sum(len(phrase.boxes) for phrase in phrases)
    if not boxes:
        say(f"Nothing to draw: the answer has no box. {path} is not written.")
        return
    write_image(draw(image, phrases), path)
    say(f"saved {path} ({boxes} box{'es' if boxes > 1 else ''})")


def say(words: str) -> None:
    """A remark on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(words, style="dim", markup=False)


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
            console.print(f"  {plain(parse(_TAG.sub('', step.text)))}", style="dim", markup=False)

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


def show_looks(looked: "LookedAgain", *, checked: bool = True) -> None:
    """Print on stdout what came of looking again: with `checked` each claim, and by what it was checked."""
    console = Console(highlight=False, soft_wrap=True)
    if looked.answer != looked.first:
        console.print("seen closer: ", coloured(parse(looked.answer)), sep="")
    if checked and not looked.claims:
        console.print("nothing to check: the answer names no thing to look for", style="dim")
    for claim in looked.claims_json() if checked else ():
        console.print(f"{claim['phrase']}: ", end="", markup=False)
        console.print(claim["verdict"], style=_VERDICTS[claim["verdict"]])
        for line in claim["evidence"]:
            console.print(f"  {plain(parse(line))}", style="dim", markup=False)
    if looked.stopped:
        console.print(f"stopped early: {looked.stopped}", style="dim", markup=False)
