"""Which held-out items the card asks, and with which image under which control."""

from collections.abc import Sequence
from dataclasses import dataclass

from fourfold.assistant.training.data import ImageRef, Sample, held_out
from fourfold.prompts.tasks import Task

SOURCES = ("photos", "scenes")
CONTROLS = ("image", "wrong-image", "blind")
"""The item's own image, another item's image, no image; the question is the same."""

# What one answer may take: boxes cost about 20 tokens each where digits are tokens of their own.
_TOKENS = {
    Task.VQA: 8,
    Task.CAPTION: 40,
    Task.REFER: 32,
    Task.IDENTIFY: 16,
    Task.DETECTION: 160,
    Task.GROUNDING: 220,
}
# "annotated" are DAQUAR's questions by people about indoor photos; they are reported apart from the derived ones.
_VQA_KINDS = ("existence", "colour", "count", "relation", "what", "text", "annotated")


@dataclass(frozen=True)
class Group:
    """Items of one kind from one source, scored together."""

    source: str
    kind: str
    samples: tuple[Sample, ...]

    @property
    def max_tokens(self) -> int:
        """Longest answer in tokens."""
        return _TOKENS[self.samples[0].turns[0].task]

    def image(self, index: int, control: str) -> ImageRef | None:
        """The image that sample `index` is asked about under `control`; None for no image.

        The wrong image is that of the sample half the group away, or of the next one that shows another photo.
        """
        if control == "blind":
            return None
        own = self.samples[index].image
        if control == "image":
            return own
        count = len(self.samples)
        for step in range(count):
            other = self.samples[(index + count // 2 + step) % count].image
            if other.id != own.id:
                return other
        raise ValueError(f"all {count} {self.kind} items of {self.source} show the same image; none is a wrong one")


def card_groups(source: str, limit: int | None, seed: int = 0) -> list[Group]:
    """The held-out groups of a source, at most `limit` items each, in a fixed order."""
    groups: dict[str, list[Sample]] = {kind: [] for kind in _VQA_KINDS}
    # The scenes are endless and vqa items are shared among five kinds; all photos are read, and cut below.
    wanted = None if source == "photos" else 5 * (limit or 400)
    for sample in held_out(Task.VQA, source, seed, wanted):
        kind = str(sample.turns[0].facts["kind"])
        groups["annotated" if sample.image.id.startswith("daquar/") else kind].append(sample)
    for task in (Task.CAPTION, Task.REFER, Task.IDENTIFY, Task.DETECTION, Task.GROUNDING):
        groups[task.value] = held_out(task, source, seed, limit)
    return [Group(source, kind, tuple(_first(samples, limit))) for kind, samples in groups.items() if len(samples) > 1]


def _first(samples: Sequence[Sample], limit: int | None) -> Sequence[Sample]:
    return samples if limit is None else samples[: max(limit, 2)]
