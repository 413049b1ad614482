"""The card's scores on answers made by hand, and a whole run of the tiny checkpoint on rendered scenes."""

import json
from pathlib import Path
from typing import Any

import pytest

from fourfold.assistant.grounding import Box, format_phrase
from fourfold.assistant.training.data import ImageRef, Sample, Turn
from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.model import EngineModel
from fourfold.eval.report.card import card_markdown
from fourfold.eval.tasks.held_out import held_out_figures, held_out_groups, run_card
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task
from tests.serving.api.live import live_server


def sample(image: str, task: Task, answer: str, boxes: tuple[Box, ...] = (), **facts: Any) -> Sample:
    return Sample((ImageRef(image),), (Turn(task, "?", answer, boxes, facts),))


def values(kind: str, samples: list[Sample], answers: list[str]) -> dict[str, float]:
    turns, images = [one.turns[0] for one in samples], [one.image.id for one in samples]
    return {name: round(figure.value, 3) for name, figure in held_out_figures(kind, turns, answers, images).items()}


def test_reference_answers_get_full_marks() -> None:
    for group in held_out_groups("scenes", 6):
        turns = [one.turns[0] for one in group.held_out]
        figures = held_out_figures(group.kind, turns, [t.answer for t in turns], [o.image.id for o in group.held_out])
        first = next(iter(figures.values()))
        if group.kind != "caption":  # one reference an image, with its own document frequencies
            assert first.value >= 90, (group.kind, first)
        assert first.n == len(turns)


def test_wrong_image_is_another_one() -> None:
    for group in held_out_groups("scenes", 5):
        assert all(one.image is None for one in group.samples("blind"))
        for own, wrong in zip(group.samples(), group.samples("wrong-image"), strict=True):
            assert own.image is not None and wrong.image is not None
            assert own.image.id == own.cluster == wrong.cluster != wrong.image.id


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
    with EngineModel(tiny_checkpoint, device="cpu") as model:
        card = run_card(model, limit=2, out=tmp_path, sources=("scenes",))
        log = tmp_path / "answers.jsonl"
        lines = log.read_bytes().splitlines(keepends=True)
        kinds = card["sources"]["scenes"]
        assert set(kinds["caption"]) == {"image", "wrong-image", "blind"}
        assert kinds["caption"]["image"]["loss (nats a token)"]["value"] > 0

        # Killed in the middle of a line: what is whole stays, the rest is asked again, nothing twice.
        log.write_bytes(b"".join(lines[:-5]) + lines[-5][:20])
        again = run_card(model, limit=2, out=tmp_path, sources=("scenes",))
    assert flat(again["sources"]) == pytest.approx(flat(card["sources"]), rel=1e-4)  # rounding: other batches
    samples = [json.loads(line)["sample"] for line in log.read_bytes().splitlines()]
    assert len(samples) == len(set(samples)) == len(lines)
    assert "| caption | cider | 2 |" in card_markdown(card)
    json.dumps(card, allow_nan=False)


def test_one_item_is_too_few_for_a_wrong_image(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with EngineModel(tiny_checkpoint, device="cpu") as model, pytest.raises(UserError, match="ask for more by --limit"):
        run_card(model, limit=1, out=tmp_path, sources=("scenes",))


def test_a_server_gets_the_same_figures_but_no_loss(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with EngineModel(tiny_checkpoint, device="cpu", dtype="float32") as model:
        card = run_card(model, limit=2, out=tmp_path / "here", sources=("scenes",))
        with live_server(model.engine) as live:
            there = run_card(EndpointModel([live.url]), limit=2, out=tmp_path / "there", sources=("scenes",))
    for controls in card["sources"]["scenes"]["caption"].values():
        del controls["loss (nats a token)"]
    assert flat(there["sources"]) == pytest.approx(flat(card["sources"]))
    assert there["failed"] == 0 and there["fingerprint"] is None
    assert "loss of reference captions is left out" in card_markdown(there)
