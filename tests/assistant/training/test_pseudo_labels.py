import json
import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.tools import detector
from fourfold.assistant.training.data import Mixture, MixtureConfig, View
from fourfold.assistant.training.data.existence import Existence
from fourfold.assistant.training.data.photo_tasks import counts, detections, identifies, refers
from fourfold.assistant.training.data.photos import Detected, Mention, Photo, Thing
from fourfold.assistant.training.data.pseudo_labels import (
    Found,
    make_pseudo_labels,
    read_pseudo_labels,
    with_pseudo_labels,
)
from fourfold.prompts.errors import UserError

LEFT, MIDDLE, RIGHT = Box(0.05, 0.2, 0.3, 0.8), Box(0.35, 0.2, 0.55, 0.8), Box(0.6, 0.3, 0.95, 0.9)
TASKS = {"existence": 1, "refer": 3, "count": 1}


def photo(*captions: str, **said: object) -> Photo:
    """A photo whose captions' marked phrases, `[a dog]`, have no boxes of their own."""
    plain, mentions = [], []
    for index, caption in enumerate(captions):
        while "[" in caption:
            start, end = caption.index("["), caption.index("]")
            mentions.append(Mention(index, start, end - 1, ()))
            caption = caption.replace("[", "", 1).replace("]", "", 1)
        plain.append(caption)
    parts = {"held_out": False, "things": (), "labels": (), "qa": (), **said}
    return Photo(
        "flickr8k_entities/x", "flickr8k_entities", "x.webp", captions=tuple(plain), mentions=tuple(mentions), **parts
    )


def told(shown: Photo, *found: tuple[str, float, Box]) -> Detected:
    (labelled,) = with_pseudo_labels([shown], {shown.id: tuple(Found(*one) for one in found)})
    assert labelled.detected is not None
    return labelled.detected


def test_what_is_sure_is_there_and_what_may_be_there_is_not_denied() -> None:
    detected = told(photo("A man ."), ("car", 0.9, LEFT), ("bus", 0.4, RIGHT))
    assert detected.all_of == {"car": (LEFT,)} == detected.some_of
    assert detected.numbers == {"car": 1}
    assert detected.possible == {"car": 0.9, "bus": 0.4}


def test_a_box_that_may_be_right_makes_the_others_a_part() -> None:
    detected = told(photo("A street ."), ("car", 0.9, LEFT), ("car", 0.4, RIGHT))
    assert detected.some_of == {"car": (LEFT,)} and not detected.all_of and not detected.numbers


def test_what_nobody_speaks_of_needs_to_be_surer() -> None:
    assert told(photo("A man ."), ("kite", 0.85, LEFT)).some_of == {}
    assert told(photo("A man ."), ("kite", 0.95, LEFT)).some_of == {"kite": (LEFT,)}
    assert told(photo("A kite ."), ("kite", 0.85, LEFT)).some_of == {"kite": (LEFT,)}


def test_people_are_right() -> None:
    dog = Thing(("a brown dog",), ("dog",), (LEFT,), frozenset({"animals"}))
    shown = photo("[A brown dog] .", things=(dog,))
    # The dog is not a horse, though the detector says so; it was found with little doubt, and people are sure.
    detected = told(shown, ("horse", 0.95, LEFT), ("dog", 0.3, LEFT))
    assert detected.all_of == {"dog": (LEFT,)} and "horse" not in detected.possible
    # Nobody speaks of a second dog.
    assert told(shown, ("dog", 0.95, LEFT), ("dog", 0.95, RIGHT)).numbers == {}
    # A box that the detector does not find makes its own ones a part.
    assert told(shown, ("dog", 0.95, RIGHT)).all_of == {}


@pytest.mark.parametrize(
    ("captions", "boxes", "number"),
    [
        (["[A man] and [a woman] ."], 2, 2),
        (["[Two men] talk ."], 1, None),
        (["Men talk ."], 1, None),
        (["A group of men ."], 2, None),
        (["[Two men] talk .", "[Two people] ."], 1, 2),  # two captions are believed
        (["[Three men] talk .", "[Two people] .", "[Two men] ."], 2, None),
        (["[Five men] talk .", "People talk ."], 3, 5),
        (["[Five men] talk .", "A crowd of people ."], 3, None),
        (["[Two boys] , [one boy] in blue .", "[Two boys] ."], 2, 2),
        ([], 1, 1),
    ],
)
def test_a_number_is_what_detector_and_captions_agree_on(captions: list[str], boxes: int, number: int | None) -> None:
    found = [("person", 0.8, box) for box in (LEFT, MIDDLE, RIGHT)[:boxes]]
    assert told(photo(*captions), *found).numbers.get("person") == number


def test_held_out_and_fully_labelled_photos_are_left_alone() -> None:
    shown = [photo(held_out=True), replace(photo(), source="coco")]
    assert with_pseudo_labels(shown, {shown[0].id: (Found("car", 0.9, LEFT),)}) == shown


def test_questions_of_what_the_detector_adds() -> None:
    man = Thing(("a man",), ("man",), (LEFT,), frozenset({"people"}))
    detected = Detected({"car": (MIDDLE,), "person": (LEFT, RIGHT)}, {"car": (MIDDLE,), "person": (LEFT, RIGHT)},
                        {"car": 1, "person": 2}, {"car": 0.9, "person": 1.0})  # fmt: skip
    shown = photo("A man .", things=(man,), detected=detected)
    asked = {turn.facts["label"]: turn.boxes for turn in detections(shown, View())}
    assert asked == {"man": (LEFT,), "person": (LEFT, RIGHT), "car": (MIDDLE,)}
    assert {turn.question.split("] ")[1]: turn.answer for turn in counts(shown, View())} == {
        "how many men are there?": "1",
        "how many cars are there?": "1",
        "how many people are there?": "2",
    }
    assert [turn.facts["phrase"] for turn in refers(shown, View())] == ["a man", "car"]
    assert [turn.answer for turn in identifies(shown, View())] == ["man", "car", "person"]
    cut = View(Box(0, 0, 0.58, 1))  # shows the man and the car
    assert {turn.facts["label"] for turn in detections(shown, cut)} == {"man", "car"}
    assert "how many people are there?" not in str(counts(shown, cut))


def test_a_number_without_boxes_is_asked_of_the_whole_photo_only() -> None:
    shown = photo("Five men .", detected=Detected({}, {}, {"person": 5}, {"person": 1.0}))
    assert [turn.answer for turn in counts(shown, View())] == ["5"]
    assert [turn.answer for turn in counts(shown, View(flip=True))] == ["5"]
    assert counts(shown, View(Box(0, 0, 0.9, 1))) == []


def test_nothing_is_denied_that_may_be_there() -> None:
    sees = {"car": 0.9, "horse": 0.4, "cat": 0.1}
    nothing = Detected({}, {}, {}, {})
    animals = ("horse", "cat", "dog")
    taught = [
        replace(
            photo(f"A {noun} ."), id=f"{noun} {number}", things=(Thing((noun,), (noun,), (LEFT,)),), detected=nothing
        )
        for noun in animals
        for number in range(12)
    ]
    cars = Detected({}, {"car": (RIGHT,)}, {}, {"car": 0.9})
    taught += [replace(photo("A tree ."), id=f"car {number}", detected=cars) for number in range(12)]
    table = Existence(taught, exhaustive=False)
    assert set(table.nouns) == {*animals, "car"}
    assert table.present(taught[-1]) == ["car"]
    assert set(table.absent(replace(photo("A tree ."), detected=Detected({}, {}, {}, sees)))) == {"cat", "dog"}
    assert "car" in table.absent(replace(photo("A tree ."), detected=nothing))
    # Captions leave cars out, so without a detector nobody knows.
    assert set(table.absent(photo("A tree ."))) == set(animals)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three photos, one of them held out, in which the detector sees a dog."""
    rows = []
    for number in range(3):
        Image.new("RGB", (80, 60), (number, 0, 0)).save(tmp_path / f"{number}.png")
        split = "heldout" if number == 1 else "train"
        rows.append({"id": f"r/{number}", "image": f"{number}.png", "width": 80, "height": 60, "split": split})
    (tmp_path / "raccoon.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    dog = detector._Seen("dog", LEFT, 0.9)
    whole = Box(0, 0, 1, 1)
    monkeypatch.setattr(detector, "_forward", lambda pixels, part: [dog] if part == whole else [])
    return tmp_path


def test_a_run_goes_on_where_it_stopped(photos: Path) -> None:
    out = photos / "labels" / "pseudo.jsonl"
    told = []
    assert make_pseudo_labels(photos, ["raccoon"], out, limit=1, on_progress=told.append) == 1
    assert (told[-1].done, told[-1].total) == (1, 1)
    first = out.read_bytes()
    out.write_bytes(first + b'{"id":"r/2","fou')  # killed while it wrote
    assert make_pseudo_labels(photos, ["raccoon"], out) == 1
    assert make_pseudo_labels(photos, ["raccoon"], out) == 0
    assert out.read_bytes().startswith(first)
    labels = read_pseudo_labels(out)
    assert set(labels) == {"r/0", "r/2"}
    (found,) = labels["r/2"]
    assert (found.label, found.box) == ("dog", LEFT) and 0.9 < found.chance < 1


def test_what_is_no_such_file_stays_as_it_is(photos: Path) -> None:
    for content in ("name = 1\n", "notes without an end", '{"id": "x", "found": [["dragon", 1, [0, 0, 1, 1]]]}\n'):
        out = photos / "notes.txt"
        out.write_text(content)
        with pytest.raises(UserError, match=r"notes\.txt"):
            make_pseudo_labels(photos, ["raccoon"], out)
        assert out.read_text() == content
    with pytest.raises(UserError, match="pseudo-labels --out"):
        read_pseudo_labels(photos / "nothing.jsonl")


def test_a_mixture_takes_them_and_stays_as_it_is_without(tmp_path: Path, shared_data: Path, monkeypatch) -> None:
    directory = tmp_path / "photos"
    directory.mkdir()
    with (shared_data / "photos" / "flickr8k_entities.jsonl").open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, islice(lines, 80)) if row["split"] == "train"]
    labels = [{"id": row["id"], "found": [["kite", 0.99, [0.1, 0.1, 0.2, 0.2]]]} for row in rows]
    for name, written in (("flickr8k_entities", rows), ("pseudo", labels)):
        (directory / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in written))
    monkeypatch.setenv("FOURFOLD_DATA", str(tmp_path))
    plain = Mixture(MixtureConfig(photos={"flickr8k_entities": 1.0}, photo_tasks=TASKS))
    taught = Mixture(replace(plain.config, pseudo_labels="pseudo.jsonl", most={"refer": 8}, turns=12))
    found = [photo.detected for photo in taught.photos["flickr8k_entities"] if photo.detected]
    assert len(found) == len(rows) and sum("kite" in detected.some_of for detected in found) > 0.8 * len(rows)
    assert not any(photo.detected for photo in plain.photos["flickr8k_entities"])
    plan = plain.epoch(0)
    assert plan == taught.epoch(0)

    def refers_drawn(mixture: Mixture) -> list[int]:
        turns = [mixture.draw(entry, 0).turns for entry in plan]
        return [sum(turn.facts["kind"] == "refer" for turn in drawn) for drawn in turns]

    assert max(refers_drawn(plain)) == 2 and 4 <= max(refers_drawn(taught)) <= 8


def test_ones_do_not_drown_the_other_numbers() -> None:
    one = photo("A man .", detected=Detected({}, {}, {"person": 1}, {"person": 1.0}))
    three = replace(one, detected=Detected({}, {}, {"person": 3}, {"person": 1.0}))
    rng = random.Random(0)
    asked = [len(counts(shown, View(), rng)) for shown in (one, three) for _ in range(300)]
    assert sum(asked[:300]) < 30 and sum(asked[300:]) == 300


def test_a_sort_that_nobody_knows_has_no_most() -> None:
    with pytest.raises(UserError, match="reffer"):
        MixtureConfig(most={"reffer": 8})
