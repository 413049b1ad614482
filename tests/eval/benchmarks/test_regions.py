"""Phrase grounding and detection: reading, scoring under each rule, and a run over an endpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fourfold.assistant.grounding import BoxFormat
from fourfold.eval.benchmarks import Options, benchmark_named
from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.prompting import resolve_config
from fourfold.eval.score import Result, score_files
from fourfold.eval.tasks.benchmark_run import RunOptions, run_benchmark
from fourfold.prompts.errors import UserError
from tests.eval.scripted import Script, endpoint

SIZE = {"image": "a.jpg", "width": 100, "height": 200}
LEFT, RIGHT, FAR = [10, 20, 30, 60], [50, 20, 70, 60], [80, 100, 99, 199]


def save(path: Path, content: list[Any] | dict[str, Any]) -> Path:
    rows = content if isinstance(content, list) else [content]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def score(folder: Path, name: str, rows: list[Any], predictions: Any, **options: Any) -> Result:
    (folder / "predictions.json").write_text(json.dumps(predictions))
    annotations = save(folder / "annotations.jsonl", rows)
    return score_files(name, folder / "predictions.json", annotations, options=Options(**options))


def figures(result: Result, rule: str) -> dict[str, float]:
    found = next(score for score in result.scores if score.rule == rule)
    values = {name: round(value.value, 2) for name, value in found.sub_scores.items()}  # type: ignore[union-attr]
    return {found.metric: round(found.headline.value, 2), **values}


def test_a_phrase_a_line_and_an_image_a_line_are_one(tmp_path: Path) -> None:
    flat = [{**SIZE, "phrase": "two dogs", "boxes": [LEFT, RIGHT]}, {**SIZE, "phrase": "a tree", "boxes": [FAR]}]
    nested = {
        **SIZE,
        "split": "heldout",
        "phrases": [
            {"phrase": "Two dogs", "boxes": [LEFT], "types": ["animals"]},
            {"phrase": "two dogs", "boxes": [LEFT, RIGHT]},  # said again in another caption
            {"phrase": "a tree", "boxes": [FAR]},
        ],
    }
    read = benchmark_named("phrase-grounding").read
    one, two = (read(save(tmp_path / "x.jsonl", rows), None, Options()) for rows in (flat, nested))
    assert [item.reference for item in one] == [item.reference for item in two]
    assert two[0].id == "a.jpg: Two dogs" and two[0].groups == {"boxes": "several", "size": "medium", "type": "animals"}
    train = {**nested, "split": "train", "image": "b.jpg"}
    assert len(read(save(tmp_path / "x.jsonl", [nested, train]), None, Options())) == 2
    with pytest.raises(UserError, match="every record is of the split train"):
        read(save(tmp_path / "x.jsonl", train), None, Options())


def test_the_two_protocols_of_phrase_grounding(tmp_path: Path) -> None:
    rows = [
        {**SIZE, "id": 1, "phrase": "dogs", "boxes": [LEFT, RIGHT]},
        {**SIZE, "id": 2, "phrase": "x", "boxes": [FAR]},
    ]
    tokens = "{<10><10><30><30>}<delim>{<0><0><5><5>}"  # the left dog, and a box that is none
    result = score(tmp_path, "phrase-grounding", rows, {"1": f"<p>dogs</p> {tokens}", "2": "nowhere"})
    assert result.headline.parse_failures == 1
    any_box = figures(result, "any_box")
    assert (any_box["acc@0.5"], any_box["mean_iou (0..1)"], any_box["boxes/several"]) == (50, 0.5, 100)
    assert (any_box["precision"], any_box["recall"]) == (50, 33.33)
    # The hull of both dogs is three times as large as one of them.
    merged = figures(result, "merged_boxes")
    assert (merged["acc@0.5"], merged["mean_iou (0..1)"]) == (0, 0.17)


def test_detection_counts_every_box_once(tmp_path: Path) -> None:
    rows = [
        {
            **SIZE,
            "boxes": [{"box": LEFT, "label": "dog"}, {"box": RIGHT, "label": "dog"}, {"box": FAR, "label": "cat"}],
        },
        {**SIZE, "image": "b.jpg", "label": "dog", "boxes": []},
        {**SIZE, "image": "c.jpg", "label": "dog", "boxes": []},
    ]
    dog = "{<10><10><30><30>}"
    predictions = {"a.jpg: dog": f"{dog}<delim>{dog}", "a.jpg: cat": "none", "b.jpg: dog": "None.", "c.jpg: dog": dog}
    result = score(tmp_path, "detection", rows, predictions)
    # F1 a question: 2 x 1 / (2 + 2), 0, 1, 0.
    assert figures(result, "iou_50") == {
        "f1 a question": 37.5,
        "boxes/none": 50,
        "boxes/one": 0,
        "boxes/several": 50,
        "size/medium": 50,
        "size/small": 0,
        "f1 over all boxes": 33.33,
        "precision over all boxes": 33.33,
        "recall over all boxes": 33.33,
        "absent left unboxed": 50,
    }
    assert result.headline.parse_failures == 0


def test_a_looser_box_counts_at_half_only(tmp_path: Path) -> None:
    rows = [{**SIZE, "id": 1, "label": "dog", "boxes": [[0, 0, 60, 100]]}]
    result = score(tmp_path, "detection", rows, [{"id": 1, "boxes": [[0, 0, 100, 100]]}])
    assert [one.headline.value for one in result.scores] == [100, 0]


@pytest.mark.parametrize(
    ("prediction", "declared"),
    [
        ({"answer": "{<10><10><30><30>}<delim>{<50><10><70><30>}"}, None),
        ({"boxes": [LEFT, RIGHT]}, None),
        ({"boxes": [[10, 10, 30, 30], [50, 10, 70, 30]]}, BoxFormat.PERCENT),
        ({"answer": "[0.1, 0.1, 0.3, 0.3] and [0.5, 0.1, 0.7, 0.3]"}, BoxFormat.UNIT),
        ({"answer": '[{"bbox_2d": [10, 20, 30, 60]}, {"bbox_2d": [50, 20, 70, 60]}]'}, BoxFormat.PIXELS),
    ],
)
def test_declared_formats(tmp_path: Path, prediction: dict[str, Any], declared: BoxFormat | None) -> None:
    rows = [{**SIZE, "id": 1, "label": "dog", "boxes": [LEFT, RIGHT]}]
    result = score(tmp_path, "detection", rows, [{"id": 1, **prediction}], box_format=declared)
    assert result.headline.headline.value == 100


def test_units_that_cannot_be_meant_stop(tmp_path: Path) -> None:
    rows = [{**SIZE, "id": 1, "label": "dog", "boxes": [LEFT]}]
    with pytest.raises(UserError, match="--box-format unit"):
        score(tmp_path, "detection", rows, [{"id": 1, "boxes": [[0.1, 0.1, 0.3, 0.3]]}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.jpg", "phrase": "dog", "boxes": [LEFT]}, "expected a record a line with image, width"),
        ({**SIZE, "width": "100", "phrase": "dog", "boxes": [LEFT]}, "whole numbers of pixels, got '100'"),
        ({**SIZE, "phrase": "dog"}, "line 1: 'dog' has no boxes"),
        ({**SIZE, "phrase": "dog", "boxes": [[1, 2, float("nan"), 4]]}, r"four finite numbers.*got \[1, 2, nan, 4\]"),
        ({**SIZE, "phrase": "dog", "boxes": [[30, 20, 10, 60]]}, "has no area"),
        ({**SIZE, "phrases": ["dog"]}, "phrases must be a list of records with phrase"),
        ({**SIZE, "phrase": "dog", "boxes": []}, "no phrase has a box"),
    ],
)
def test_bad_annotations_say_where(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(tmp_path, "phrase-grounding", [row], {"1": "x"})


@pytest.mark.parametrize(("name", "tag"), [("phrase-grounding", "[refer]"), ("detection", "[detection]")])
def test_over_an_endpoint_with_boxes_to_look_at(tmp_path: Path, name: str, tag: str) -> None:
    Image.new("RGB", (100, 200)).save(tmp_path / "a.jpg")
    word = {"phrase-grounding": "phrase", "detection": "label"}[name]
    path = save(tmp_path / "x.jsonl", {**SIZE, "id": 7, word: "dogs", "boxes": [LEFT, RIGHT]})
    reply = "<p>dogs</p> {<10><10><30><30>}<delim>{<50><10><70><30>}"
    with endpoint(Script(answer=reply)) as script:
        manner = resolve_config(None, name)
        run = run_benchmark(
            RunOptions(name, tmp_path, path, tmp_path / "out", EndpointModel([script.url]), prompting=manner)
        )
        (body,) = script.bodies
    assert run.result is not None and run.result.headline.headline.value == 100
    assert body["messages"][0]["content"][1]["text"].startswith(tag) and body["max_tokens"] == manner.max_tokens > 20
    (sample,) = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert sample["boxes"] == {"truth": [LEFT, RIGHT], "predicted": [LEFT, RIGHT]}
    again = score_files(name, tmp_path / "out" / "predictions.json", path)
    assert again.headline.headline == run.result.headline.headline


def test_the_photos_held_out_phrases(tmp_path: Path, shared_data: Path) -> None:
    whole = (shared_data / "photos" / "flickr8k_entities.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "x.jsonl").write_text("".join(line for line in whole if '"split": "train"' not in line))
    samples = benchmark_named("phrase-grounding").read(tmp_path / "x.jsonl", None, Options())
    assert len(samples) > 3000 and {"people", "animals"} <= {sample.groups.get("type") for sample in samples}
