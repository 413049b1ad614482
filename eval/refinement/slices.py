"""What is asked before and after learning: slices of questions, each with a score of its own."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from fourfold.assistant.refine.memory import Memory, reminded
from fourfold.assistant.refine.replay import retired_answers
from fourfold.assistant.refine.samples import StoredImage, TrainingTarget, plain
from fourfold.assistant.training.data import ImageRef, Sample
from fourfold.eval.held_out.items import card_groups
from fourfold.eval.log import AnswerLog
from fourfold.eval.progress import progress_bar
from fourfold.eval.refinement.scores import agreement, card_scores
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task
from fourfold.serving.engine.requests import Request, Sampling

if TYPE_CHECKING:
    from fourfold.serving.engine.engine import Engine

Answers = Mapping[str, Mapping[str, Any]]
"""Key of an item → its record in a log (`AnswerLog.done`)."""
_BATCH = 64
OUT_OF_USE = ", answer out of use"


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

    def request(self, picture: Image.Image, adapter: str, memory: Memory | None = None) -> Request:
        """What the engine is asked; with what a memory knows of it, if that is given."""
        texts = [text for pair in self.history for text in pair] + [self.question]
        messages: list[dict[str, Any]] = [
            {"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(texts)
        ]
        messages[0]["content"] = [{"type": "image", "image": picture}, {"type": "text", "text": texts[0]}]
        recalled = memory.recall(picture, self.question) if memory is not None and not self.history else None
        answer = recalled.known if recalled else None
        if recalled is not None and answer is None:
            messages = reminded(messages, recalled)
        return Request(messages, Sampling(max_tokens=self.max_tokens), adapter=adapter, answer=answer)


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


def correction_slice(name: str, lessons: Sequence[TrainingTarget], read: Callable[[str], bytes]) -> Slice:
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
    learnt: Sequence[TrainingTarget] = (),
) -> list[Slice]:
    """The card in small: what corrections of something else should leave as it is.

    Questions whose right answer holds one that was put out of use, as a word, come as slices of their own, whose names
    end in `OUT_OF_USE`.

    Args:
        sources: of "scenes" and "photos".
        limit: items a kind and source at most.
        seed: of the draw.
        kinds: of questions; None for all of the card's.
        without: ids of images that are learnt from.
        retired: answers out of use, by task.
        learnt: corrections, from which it follows what else is out of use (`retired_answers`).
    """
    groups = [
        group
        for source in sources
        for group in card_groups(source, 2 * limit, seed)
        if kinds is None or group.kind in kinds
    ]
    turns = [sample.turns[0] for group in groups for sample in group.samples]
    retired = {*retired, *retired_answers(learnt, {(turn.task, plain(turn.answer)) for turn in turns})}
    slices = []
    for group in groups:
        samples = [sample for sample in group.samples if sample.image.id not in without]
        old = [sample for sample in samples if _out_of_use(sample, retired)]
        name = f"{group.source}/{group.kind}"
        for title, some in ((name, [one for one in samples if one not in old]), (f"{name}{OUT_OF_USE}", old)):
            if len(some) > 1:
                slices.append(sample_slice(title, group.kind, some[:limit], group.max_tokens))
    return slices


def _out_of_use(sample: Sample, retired: Collection[tuple[Task, str]]) -> bool:
    turn = sample.turns[0]
    words = f" {plain(turn.answer)} "
    return any(task is turn.task and f" {answer} " in words for task, answer in retired)


def sources_here() -> list[str]:
    """Of which sources held-out images are on this machine: scenes always, photos where their files are."""
    from fourfold.assistant.training.data.sample import photos_directory

    try:
        photos_directory()
    except UserError:
        return ["scenes"]
    return ["photos", "scenes"]


def load_engine(model: str | Path, device: str) -> "Engine":
    """An engine whose answers with and without an adapter differ by the adapter alone.

    On a CPU the model alone may be computed in int8, but never with an adapter; here both are float32.

    Args:
        model: directory of the checkpoint.
        device: as for `Engine.load`.
    """
    import torch

    from fourfold.serving.engine.engine import Engine

    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return Engine.load(model, device=device, dtype="auto" if on_gpu else "float32")


def ask(
    engine: "Engine",
    slices: Sequence[Slice],
    adapter: str,
    log: AnswerLog,
    title: str,
    memory: Memory | None = None,
) -> None:
    """Ask everything that has no answer in the log yet, greedily; answers go into the log as they come.

    Args:
        engine: who answers.
        slices: what is asked.
        adapter: name of a loaded adapter, "" for the model alone.
        log: of this model, adapter and memory.
        title: of the progress bar.
        memory: whose corrections come back as context; None for none.
    """
    waiting = {item.key: item for part in slices for item in part.items if item.key not in log.done}
    # All questions about an image stand together, so that it is encoded once.
    items = sorted(waiting.values(), key=lambda item: (item.image.key, item.key))
    with progress_bar() as progress:
        bar = progress.add_task(title, total=len(items))
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            pictures = {item.image.key: item.image.open() for item in batch}
            requests = [item.request(pictures[item.image.key], adapter, memory) for item in batch]
            for item, completion in zip(batch, engine.generate(requests), strict=True):
                log.add(item.key, answer=completion.text)
                progress.advance(bar)


def scores_of(part: Slice, answers: Answers) -> tuple[list[str], list[float]]:
    """The answers to a slice's questions and their scores; `answers` has all of them."""
    said = [answers[item.key]["answer"] for item in part.items]
    return said, part.score(said)
