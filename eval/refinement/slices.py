"""What is asked before and after learning: slices of questions, each with a score of its own."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from assistant.refine.samples import Lesson, StoredImage, plain
from assistant.training.data import ImageRef, Sample
from eval.answers import AnswerLog
from eval.card.items import card_groups
from eval.progress import progress_bar
from eval.refinement.scores import agreement, card_scores
from prompts.errors import UserError
from prompts.tasks import Task
from serving.requests import Request, Sampling

if TYPE_CHECKING:
    from serving.engine import Engine

_BATCH = 64


@dataclass(frozen=True)
class Item:
    """A question about an image.

    Attributes:
        image: what is asked about.
        question: with its tag.
        reference: the right answer.
        max_tokens: length of an answer.
        history: questions and answers that came before.
        id: of the correction, where it is one.
    """

    image: ImageRef
    question: str
    reference: str
    max_tokens: int
    history: tuple[tuple[str, str], ...] = ()
    id: str = ""

    @property
    def key(self) -> str:
        """Name in the log of answers: the same for what gets the same answer."""
        parts = (self.image.key, *(text for pair in self.history for text in pair), self.question, str(self.max_tokens))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]

    def request(self, picture: Any, adapter: str) -> Request:
        """What the engine is asked."""
        texts = [text for pair in self.history for text in pair] + [self.question]
        messages: list[dict[str, Any]] = [
            {"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(texts)
        ]
        messages[0]["content"] = [{"type": "image", "image": picture}, {"type": "text", "text": texts[0]}]
        return Request(messages, Sampling(max_tokens=self.max_tokens), adapter=adapter)


@dataclass(frozen=True)
class Slice:
    """Questions of one kind.

    Attributes:
        name: such as "photos/existence".
        items: in a fixed order.
        score: from the items' answers to their scores, 0..1.
    """

    name: str
    items: tuple[Item, ...]
    score: Callable[[Sequence[str]], list[float]] = field(repr=False)

    @property
    def images(self) -> list[str]:
        """The image of each item, by which results are clustered."""
        return [item.image.id for item in self.items]


def correction_slice(name: str, lessons: Sequence[Lesson], read: Callable[[str], bytes]) -> Slice:
    """Corrected questions, asked again. Where only annotations were given, these are asked for."""
    items = []
    for lesson in lessons:
        direct = lesson.answer is not None
        for turn in lesson.turns[:1] if direct else lesson.turns:
            items.append(
                Item(
                    StoredImage(lesson.correction.image, read=read),
                    turn.question,
                    turn.answer,
                    # No token is shorter than a byte, so the right answer always has room.
                    min(256, max(24, len(turn.answer.encode()))),
                    lesson.history if direct else (),
                    lesson.correction.id,
                )
            )
    references = [item.reference for item in items]
    return Slice(name, tuple(items), lambda answers: list(map(agreement, references, answers)))


def sample_slice(name: str, kind: str, samples: Sequence[Sample], max_tokens: int) -> Slice:
    """Held-out samples of one kind of the card."""
    items = tuple(Item(s.image, s.turns[0].question, s.turns[0].answer, max_tokens) for s in samples)
    return Slice(name, items, lambda answers: card_scores(kind, samples, answers))


def untouched_slices(
    sources: Sequence[str],
    limit: int,
    seed: int = 0,
    *,
    kinds: Collection[str] | None = None,
    without: Collection[str] = (),
    retired: Collection[tuple[Task, str]] = (),
) -> list[Slice]:
    """The card in small: what corrections of something else should leave as it is.

    Args:
        sources: of "scenes" and "photos".
        limit: items a kind and source at most.
        seed: of the draw.
        kinds: of questions; None for all of the card's.
        without: ids of images that are learnt from.
        retired: answers that the corrections put out of use; who says them still is not meant to.
    """
    slices = []
    for source in sources:
        for group in card_groups(source, 2 * limit, seed):
            if kinds is not None and group.kind not in kinds:
                continue
            samples = [
                sample
                for sample in group.samples
                if sample.image.id not in without
                and (sample.turns[0].task, plain(sample.turns[0].answer)) not in retired
            ][:limit]
            if len(samples) > 1:
                slices.append(sample_slice(f"{source}/{group.kind}", group.kind, samples, group.max_tokens))
    return slices


def sources_here() -> list[str]:
    """Of which sources held-out images are on this machine: scenes always, photos where their files are."""
    from assistant.training.data.sample import photos_directory

    try:
        photos_directory()
    except UserError:
        return ["scenes"]
    return ["photos", "scenes"]


def ask(engine: "Engine", slices: Sequence[Slice], adapter: str, log: AnswerLog, title: str) -> None:
    """Ask everything that has no answer in the log yet, greedily; answers go into the log as they come."""
    waiting = {item.key: item for part in slices for item in part.items if item.key not in log.done}
    # All questions about an image stand together, so that it is encoded once.
    items = sorted(waiting.values(), key=lambda item: (item.image.key, item.key))
    with progress_bar() as progress:
        bar = progress.add_task(title, total=len(items))
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            pictures = {item.image.key: item.image.open() for item in batch}
            requests = [item.request(pictures[item.image.key], adapter) for item in batch]
            for item, completion in zip(batch, engine.generate(requests), strict=True):
                log.add(item.key, answer=completion.text)
                progress.advance(bar)


def scores_of(part: Slice, log: AnswerLog) -> tuple[list[str], list[float]]:
    """The answers of a slice and their scores, from a log that has all of them."""
    answers = [log.done[item.key]["answer"] for item in part.items]
    return answers, part.score(answers)
