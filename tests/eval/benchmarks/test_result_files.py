"""Result files in the benchmarks' own formats: what is written is read again, and what others wrote is read."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fourfold.assistant.grounding import BoxFormat
from fourfold.eval.benchmarks import Options
from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.score import Result, score_files
from fourfold.eval.tasks.benchmark_run import RunOptions, run_benchmark
from fourfold.prompts.errors import UserError
from tests.eval.scripted import Script, endpoint

LABELS = [
    {"question_id": number, "image": f"COCO_val2014_{number // 3:012d}.jpg", "text": text, "label": label}
    for number, (text, label) in enumerate(
        [("Is there a dog?", "yes"), ("Is there a car?", "no"), ("Is there a cat?", "yes"), ("Is there a dog?", "no")],
        1,
    )
]
REFERENT = {
    "img_id": "COCO_val2014_000000000001_4",
    "sents": "dog",
    "bbox": [10, 20, 30, 40],
    "height": 200,
    "width": 100,
}
ANSWERS = ["Yes, there is.", "No.", "no", "There is a dog, yes"]


def save(path: Path, rows: Any, *, lines: bool = True) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows))
    return path


def pope(folder: Path, rows: Any) -> Result:
    return score_files("pope", save(folder / "p.json", rows), save(folder / "labels.json", LABELS))


def test_popes_own_answers_go_by_their_order(tmp_path: Path) -> None:
    asked = [label["text"] for label in LABELS]
    rows = [{"question": question, "answer": answer} for question, answer in zip(asked, ANSWERS, strict=True)]
    result = pope(tmp_path, rows)
    # POPE's script, by hand: yes, no, no, yes against yes, no, yes, no.
    assert result.headline.rule == "pope" and result.headline.headline.value == 50
    named = [
        {"question_id": label["question_id"], "answer": row["answer"]} for label, row in zip(LABELS, rows, strict=True)
    ]
    assert pope(tmp_path, named).headline == result.headline
    about = [{**row, "image": label["image"]} for label, row in zip(LABELS, rows, strict=True)]
    assert pope(tmp_path, list(reversed(about))).headline == result.headline


def test_popes_own_answers_of_another_file_stop(tmp_path: Path) -> None:
    rows = [{"question": label["text"], "answer": "yes"} for label in LABELS]
    with pytest.raises(UserError, match="3 answers without ids to 4 questions: POPE's answers go by their order"):
        pope(tmp_path, rows[:3])
    with pytest.raises(UserError, match=r"record 1 answers 'Is there a car\?', but question 1 is 'Is there a dog"):
        pope(tmp_path, [rows[1], rows[0], *rows[2:]])
    with pytest.raises(UserError, match="some predictions have an id and some have none"):
        pope(tmp_path, [{**rows[0], "id": 1}, *rows[1:]])
    with pytest.raises(UserError, match="1 of 1 predictions have no question_id or id"):
        questions = [{"image": "a", "caption": "b", "label": 1}]
        score_files("vsr", save(tmp_path / "p.json", rows[:1]), save(tmp_path / "v.json", questions))


def gqa(*names: str) -> dict[str, Any]:
    record = {"imageId": "n1", "question": "what?", "answer": "couch", "isBalanced": True}
    return dict.fromkeys(names, record)


@pytest.mark.parametrize("name", ["gqa", "pope", "refcoco"])
def test_a_run_writes_what_is_read_again(tmp_path: Path, name: str) -> None:
    for file in ("n1.jpg", "COCO_val2014_000000000000.jpg", "COCO_val2014_000000000001.jpg"):
        Image.new("RGB", (100, 200)).save(tmp_path / file)
    annotations = {"gqa": gqa("01827492", "1827492"), "pope": LABELS, "refcoco": [REFERENT]}[name]
    path = save(tmp_path / "a.json", annotations, lines=name == "pope")
    answer = {"gqa": "couch", "pope": "yes", "refcoco": "{<10><10><40><30>}"}[name]
    with endpoint(Script(answer=answer)) as script:
        run = run_benchmark(RunOptions(name, tmp_path, path, tmp_path / "out", EndpointModel([script.url])))
    written = (tmp_path / "out" / "predictions.json").read_text()
    again = score_files(name, tmp_path / "out" / "predictions.json", path)
    assert run.result is not None and again.headline.headline == run.result.headline.headline
    if name == "gqa":  # ids with a zero in front are ids of their own
        assert json.loads(written) == [{"questionId": key, "prediction": "couch"} for key in ("01827492", "1827492")]
    if name == "pope":  # a line each, which is what its script reads
        rows = [json.loads(line) for line in written.splitlines()]
        assert [(row["question"], row["answer"]) for row in rows] == [(label["text"], "yes") for label in LABELS]


@pytest.mark.parametrize(
    ("wording", "template"),
    [
        ("qwen3-vl", '```json\n[{{"bbox_2d": [{x1}, {y1}, {x2}, {y2}], "label": "dog"}}]\n```'),
        ("OpenGVLab/InternVL3-8B", "<ref>dog</ref><box>[[{x1}, {y1}, {x2}, {y2}]]</box>"),
        ("gemini-2.5-flash", '[{{"box_2d": [{y1}, {x1}, {y2}, {x2}], "label": "dog"}}]'),
    ],
)
def test_a_model_is_asked_and_read_in_its_own_way(tmp_path: Path, wording: str, template: str) -> None:
    from typer.testing import CliRunner

    from fourfold.cli.eval import app

    Image.new("RGB", (100, 200)).save(tmp_path / "COCO_val2014_000000000001.jpg")
    path = save(tmp_path / "a.json", [REFERENT], lines=False)
    answer = template.format(x1=100, y1=100, x2=400, y2=300)  # thousandths of 100 x 200
    with endpoint(Script(answer=answer, name=wording)) as script:
        words = ["run", "refcoco", "--annotations", path, "--images", tmp_path, "--endpoint", script.url, "--json"]
        done = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
        (body,) = script.bodies
    result = json.loads(next(line for line in done.output.splitlines() if line.startswith("{")))
    assert (result["value"], result["parse_failures"]) == (100, 0)
    assert result["sub_scores"]["mean_iou (0..1)"]["value"] == pytest.approx(1)
    prompt = body["messages"][0]["content"][1]["text"]
    assert "dog" in prompt and not prompt.startswith("[refer]") and body["max_tokens"] == 128
    (sample,) = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert sample["boxes"]["predicted"] == [pytest.approx([10, 20, 40, 60])]
    # The same file, scored on its own, needs to be told.
    alone = score_files("refcoco", tmp_path / "out" / "predictions.json", path)
    assert alone.headline.headline.value == 0
    assert "1 answers hold numbers that are no {<x1><y1><x2><y2>}" in alone.headline.notes[0]
    declared = Options(box_format=BoxFormat(result["files"]["box_format"]))
    told = score_files("refcoco", tmp_path / "out" / "predictions.json", path, options=declared)
    assert told.headline.headline.value == 100


def test_what_was_not_read_is_counted_and_shown(tmp_path: Path) -> None:
    path = save(tmp_path / "a.json", [REFERENT] * 4, lines=False)
    answers = {"0": "[100, 100, 400, 300]", "1": "I see no dog", "2": "(250, 200)", "3": "[400, 300, 100, 100]"}
    options = Options(box_format=BoxFormat.THOUSAND)
    result = score_files("refcoco", save(tmp_path / "p.json", answers, lines=False), path, options=options)
    assert (result.headline.headline.value, result.headline.parse_failures) == (25, 2)
    assert result.headline.notes == (
        "2 answers hold no box that reads as thousand, such as 'I see no dog'",
        "1 answers point at a spot instead of giving a box; a spot has no area, and is wrong",
    )
    answers = dict.fromkeys(answers, "[0.1, 0.1, 0.4, 0.3]")
    result = score_files("refcoco", save(tmp_path / "p.json", answers, lines=False), path, options=options)
    assert "every box lies within 0..1" in result.headline.notes[0]


def test_text_beside_an_answer_is_the_question_or_the_run_stops(tmp_path: Path) -> None:
    path = save(tmp_path / "a.json", gqa("1"), lines=False)
    rows = [{"question_id": 1, "answer": "couch", "text": "a wooden chair"}]
    with pytest.raises(UserError, match="holds both answer 'couch' and text 'a wooden chair'; which is the model's"):
        score_files("gqa", save(tmp_path / "p.json", rows, lines=False), path)
    rows[0]["text"] = "what? Answer briefly"
    assert score_files("gqa", save(tmp_path / "p.json", rows, lines=False), path).headline.headline.value == 100
