"""What is asked before and after learning: what was corrected, and the card in small, which should stay as it is."""

from collections.abc import Callable, Collection, Mapping, Sequence

from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.training.replay import superseded_answers
from fourfold.assistant.refine.training.samples import StoredImage, TrainingTarget, plain
from fourfold.assistant.training import data
from fourfold.assistant.training.data.sample import photos_directory
from fourfold.eval.model import Output
from fourfold.eval.scorers.answers import agreement, score_answers
from fourfold.eval.task import Sample, Task
from fourfold.eval.tasks.held_out import content_id, held_out_groups, sample_of
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task as Tag

OUT_OF_USE = ", answer out of use"


def correction_task(name: str, targets: Sequence[TrainingTarget], read: Callable[[str], Attachment]) -> Task:
    """Corrected questions, asked again; `groups` has the correction's id. Where only annotations were given, these are
    asked for.
    """
    samples = []
    for target in targets:
        direct = target.answer is not None
        image, history = StoredImage(target.correction.image, read=read), target.history if direct else ()
        for turn in target.turns[:1] if direct else target.turns:
            # No token is shorter than a byte, so the right answer always has room.
            longest = min(256, max(24, len(turn.answer.encode())))
            samples.append(
                Sample(
                    content_id(turn.question, image, longest, history),
                    turn.question,
                    image,
                    turn,
                    history=history,
                    cluster=image.id,
                    groups={"correction": target.correction.id},
                    max_tokens=longest,
                )
            )
    references = [sample.reference.answer for sample in samples]
    return Task(name, samples, score=lambda answers: list(map(agreement, references, answers)))


def held_out_task(name: str, kind: str, held_out: Sequence[data.Sample], max_tokens: int) -> Task:
    """Held-out questions of one kind of the card."""
    samples = [sample_of(one, max_tokens, one.image) for one in held_out]
    turns = [sample.reference for sample in samples]
    return Task(name, samples, score=lambda answers: score_answers(kind, turns, answers))


def untouched_tasks(
    sources: Sequence[str],
    limit: int,
    seed: int = 0,
    *,
    kinds: Collection[str] | None = None,
    without: Collection[str] = (),
    superseded: Collection[tuple[Tag, str]] = (),
    learnt: Sequence[TrainingTarget] = (),
) -> list[Task]:
    """The card in small: what corrections of something else should leave as it is.

    Questions whose right answer holds one that was put out of use, as a word, come as tasks of their own, whose names
    end in `OUT_OF_USE`.

    Args:
        sources: of "scenes" and "photos".
        limit: questions a kind and source at most.
        seed: of the draw.
        kinds: of questions; None for all of the card's.
        without: ids of images that are learnt from.
        superseded: answers out of use, by task tag.
        learnt: corrections, from which it follows what else is out of use (`superseded_answers`).
    """
    groups = [
        group
        for source in sources
        for group in held_out_groups(source, 2 * limit, seed)
        if kinds is None or group.kind in kinds
    ]
    turns = [sample.turns[0] for group in groups for sample in group.held_out]
    superseded = {*superseded, *superseded_answers(learnt, {(turn.task, plain(turn.answer)) for turn in turns})}
    tasks = []
    for group in groups:
        samples = [sample for sample in group.held_out if sample.image.id not in without]
        old = [sample for sample in samples if _out_of_use(sample, superseded)]
        name = f"{group.source}/{group.kind}"
        for title, some in ((name, [one for one in samples if one not in old]), (f"{name}{OUT_OF_USE}", old)):
            if len(some) > 1:
                tasks.append(held_out_task(title, group.kind, some[:limit], group.max_tokens))
    return tasks


def _out_of_use(sample: data.Sample, superseded: Collection[tuple[Tag, str]]) -> bool:
    turn = sample.turns[0]
    words = f" {plain(turn.answer)} "
    return any(tag is turn.task and f" {answer} " in words for tag, answer in superseded)


def together(name: str, tasks: Sequence[Task]) -> Task:
    """All samples of several tasks as one, each scored by its own task's rule."""

    def score(answers: Sequence[str]) -> list[float]:
        left = iter(answers)
        return [value for task in tasks for value in scores_of(task, [next(left) for _ in task.samples])]

    return Task(name, [sample for task in tasks for sample in task.samples], score=score)


def scores_of(task: Task, answers: Sequence[str]) -> list[float]:
    """Scores 0..1 of the answers to a task's samples, in their order."""
    assert task.score is not None
    return task.score(answers)


def answers_of(task: Task, outputs: Mapping[str, Output]) -> list[str]:
    """The written answers to a task's samples, in their order.

    Raises:
        UserError: one has none; the next run asks it again.
    """
    failed = [outputs[sample.id].error for sample in task.samples if outputs[sample.id].text is None]
    if failed:
        raise UserError(f"{len(failed)} of {len(task.samples)} questions ({task.name}) got no answer: {failed[0]}")
    return [outputs[sample.id].text or "" for sample in task.samples]


def sources_here() -> list[str]:
    """Of which sources held-out images are on this machine: scenes always, photos where their files are."""
    try:
        photos_directory()
    except UserError:
        return ["scenes"]
    return ["photos", "scenes"]
