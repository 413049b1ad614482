"""The card's scores on answers made by hand, and a whole run of the tiny checkpoint on rendered scenes."""

import json
from pathlib import Path
from typing import Any

import pytest

from fourfold.assistant.grounding import Box, format_phrase
from fourfold.assistant.training.data import ImageRef, Sample, Turn
from fourfold.eval.held_out import card_groups, card_markdown, run_card
from fourfold.eval.held_out.scores import SCORES
from fourfold.prompts.tasks import Task


def sample(image: str, task: Task, answer: str, boxes: tuple[Box, ...] = (), **facts: Any) -> Sample:
    return Sample(ImageRef(image), (Turn(task, "?", answer, boxes, facts),))


def values(kind: str, samples: list[Sample], answers: list[str]) -> dict[str, float]:
    return {name: round(figure.value, 3) for name, figure in SCORES[kind](samples, answers).items()}


@pytest.mark.parametrize("source", ["scenes"])
def test_reference_answers_get_full_marks(source: str) -> None:
    for group in card_groups(source, 6):
        answers = [one.turns[0].answer for one in group.samples]
        figures = SCORES[group.kind](group.samples, answers)
        first = next(iter(figures.values()))
        if group.kind != "caption":  # one reference an image, with its own document frequencies
            assert first.value >= 90, (group.kind, first)
        assert first.n == len(group.samples)


def test_wrong_image_is_another_one() -> None:
    for group in card_groups("scenes", 5):
        for index, one in enumerate(group.samples):
            image = group.image(index, "wrong-image")
            assert image is not None and image.id != one.image.id
            assert group.image(index, "blind") is None


def test_existence_by_kind_of_negative() -> None:
    samples = []
    for number, kind in enumerate(("random", "popular", "adversarial", "random")):
        samples.append(sample(f"{number}", Task.VQA, "yes", kind="existence", negative=None))
        samples.append(sample(f"{number}", Task.VQA, "no", kind="existence", negative=kind))
    figures = values("existence", samples, ["Yes", "no", "yes", "yes", "no", "no", "yes", "dunno"])
    assert figures["accuracy"] == 62.5
    assert figures["accuracy/random"] == 75
    assert figures["accuracy/popular"] == 50
    assert figures["accuracy/adversarial"] == 50
    assert figures["f1/adversarial"] == 0


def test_count_reads_words_and_reports_near_misses() -> None:
    samples = [sample(str(i), Task.VQA, answer) for i, answer in enumerate("1234")]
    figures = values("count", samples, ["one", "3", "3.", "many"])
    assert figures == {"accuracy": 50, "off by one at most": 75}


def test_identify_exact_and_by_head_noun() -> None:
    samples = [sample(str(i), Task.IDENTIFY, "dog", names=("dog", "a black dog")) for i in range(4)]
    figures = values("identify", samples, ["A dog.", "black dog", "a small dog", "cat"])
    assert figures == {"accuracy": 50, "head noun": 75}


def test_refer_counts_unreadable_answers() -> None:
    box = Box(0.1, 0.1, 0.5, 0.5)
    samples = [sample(str(i), Task.REFER, "", (box,)) for i in range(2)]
    figures = values("refer", samples, ["{<10><10><50><50>}", "on the left"])
    assert figures == {"acc@0.5": 50, "mean_iou (0..1)": 0.5, "no box": 50}


def test_detection_counts_boxes_over_all_items() -> None:
    one, two, far = Box(0, 0, 0.2, 0.2), Box(0.5, 0.5, 0.9, 0.9), Box(0.3, 0, 0.4, 0.1)
    samples = [
        sample("a", Task.DETECTION, "", (one, two), absent=False),
        sample("b", Task.DETECTION, "none", (), absent=True),
        sample("c", Task.DETECTION, "none", (), absent=True),
    ]
    answers = [format_phrase("dog", [one, far, one]), "none", format_phrase("cat", [far])]
    figures = values("detection", samples, answers)
    # Four boxes written, one of them right (a second copy finds no truth of its own); two to be found.
    assert figures == {"f1": 33.333, "precision": 25, "recall": 50, "absent left unboxed": 50}


def test_grounding_wants_noun_and_place() -> None:
    dog, man = Box(0, 0, 0.2, 0.2), Box(0.5, 0.5, 0.9, 0.9)
    grounded = (("a brown dog", (dog,)), ("a man", (man,)))
    samples = [sample(i, Task.GROUNDING, "", grounded=grounded, references=("A man and a dog.",)) for i in "ab"]
    answers = [f"{format_phrase('the dog', [dog])} with {format_phrase('a cat', [man])}", "a dog and a man"]
    figures = values("grounding", samples, answers)
    assert (figures["precision"], figures["recall"], figures["no phrase"]) == (50, 25, 50)


def flat(values: dict[str, Any], path: str = "") -> dict[str, float]:
    """All figures of nested dictionaries by their path."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{path}/{name}")
        else:
            found[f"{path}/{name}"] = -1 if value is None else value
    return found


def test_tiny_run_resumes_and_tells_the_same(tiny_checkpoint: Path, tmp_path: Path) -> None:
    card = run_card(tiny_checkpoint, limit=2, out=tmp_path, sources=("scenes",))
    log = tmp_path / "answers.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    kinds = card["sources"]["scenes"]
    assert set(kinds["caption"]) == {"image", "wrong-image", "blind"}
    assert kinds["caption"]["image"]["loss (nats a token)"]["value"] > 0

    # Killed in the middle of a line: what is whole stays, the rest is asked again, nothing twice.
    log.write_bytes(b"".join(lines[:-5]) + lines[-5][:20])
    again = run_card(tiny_checkpoint, limit=2, out=tmp_path, sources=("scenes",))
    assert flat(again["sources"]) == pytest.approx(flat(card["sources"]), rel=1e-4)  # rounding: other batches
    samples = [json.loads(line)["sample"] for line in log.read_bytes().splitlines()]
    assert len(samples) == len(set(samples)) == len(lines)
    assert "| caption | cider | 2 |" in card_markdown(card)
    json.dumps(card, allow_nan=False)
