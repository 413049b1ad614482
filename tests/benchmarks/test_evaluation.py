"""The measured tables: annotation files of the data folder, and the command on an endpoint with known answers."""

import json

import pytest
from PIL import Image

from benchmarks import evaluation
from benchmarks.evaluation import compare_answers, referents, sample_files
from fourfold.eval.benchmarks import Options, benchmark_named
from fourfold.eval.scorers.vqa_accuracy import vqa_2021
from tests.eval.scripted import Script, endpoint


def test_scores_of_okvqa_survive_the_way_through_ten_answers(tmp_path):
    (tmp_path / "coco_sample").mkdir()
    record = {"question_id": 1, "img_id": 7, "label": {"eye": 1, "heart": 0.6}, "sent": "What for?"}
    records = [{"benchmark": "okvqa_val", "record": record}]
    (tmp_path / "coco_sample" / "manifest.json").write_text(json.dumps([{"image": "7.jpg", "records": records}]))
    okvqa = benchmark_named("okvqa")
    [item] = okvqa.read(sample_files(tmp_path, tmp_path)["okvqa"], None, Options())
    assert [vqa_2021(said, item.reference) for said in ("Eye", "heart", "x")] == pytest.approx([1, 0.6, 0])


def test_a_thing_with_three_names_is_a_referent_of_refcoco(tmp_path):
    box, all_of_it = [10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 100.0, 100.0]
    names = [("a dog", "1", box), ("the Dog", "1", box), ("it", "1", box), ("the dog", "1", box)]
    names += [(name, "2", all_of_it) for name in ("a street", "the road", "a way")]
    names += [("a man", "3", box), ("a boy", "3", box)]
    phrases = [{"phrase": phrase, "entity": entity, "boxes": [found]} for phrase, entity, found in names]
    photo = {"id": "x/12_ab", "image": "x/images/12_ab.webp", "width": 100, "height": 100, "phrases": phrases}
    rows = list(referents(photo))
    assert [row["sents"] for row in rows] == ["a dog", "the dog", "it"]  # not what fills the image, nor two names
    (tmp_path / "refcoco.json").write_text(json.dumps(rows))
    items = benchmark_named("refcoco").read(tmp_path / "refcoco.json", None, Options())
    assert {(one.cluster, one.reference.box) for one in items} == {("x/images/12_ab.webp", tuple(box))}


def test_the_sample_on_an_endpoint_that_says_yes(shared_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FOURFOLD_DATA", str(shared_data))
    with endpoint(Script(answer="yes")) as script:
        words = ["evaluation", "--endpoint", script.url, "--parts", "sample", "--out", str(tmp_path)]
        monkeypatch.setattr("sys.argv", words)
        evaluation.main()
        asked = script.requests
        evaluation.main()
        assert script.requests == asked == 4 * (22 + 18 + 14 + 7 + 14)  # and nothing twice
    table = (tmp_path / "evaluation.md").read_text()
    assert table in capsys.readouterr().out
    # One of seven statements is true; the same answer with and without the image is no gain.
    assert "| VSR, accuracy (`official`) | 7 |" in table and "+0.0 [+0.0, +0.0], p 1.000 |" in table
    measured = json.loads((tmp_path / "evaluation.json").read_text())
    assert len(measured["parts"]["sample"]) == 20 and (tmp_path / "report.html").exists()


def test_what_is_served_is_compared_with_what_is_answered_in_process(tiny_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "coco_sample").mkdir()
    content = []
    for number, asked in enumerate(["what animal is this?", "what colour is the car?"]):
        Image.linear_gradient("L").rotate(90 * number).convert("RGB").save(tmp_path / "coco_sample" / f"{number}.jpg")
        record = {"question_id": number, "img_id": number, "label": {"dog": 1}, "sent": asked}
        content.append({"image": f"{number}.jpg", "records": [{"benchmark": "okvqa_val", "record": record}]})
    (tmp_path / "coco_sample" / "manifest.json").write_text(json.dumps(content))
    monkeypatch.setenv("FOURFOLD_DATA", str(tmp_path))
    out = tmp_path / "out"
    words = ["evaluation", "--model", str(tiny_checkpoint), "--served", "--parts", "sample", "--out", str(out)]
    monkeypatch.setattr("sys.argv", words)
    evaluation.main()
    served = json.loads((out / "evaluation.json").read_text())["served"]
    assert [(one["answers"], one["same"], one["others"]) for one in served.values()] == [(2, 2, [])] * 4
    assert "| OK-VQA | 8 | 8 |" in (out / "evaluation.md").read_text()
    # An answer that is another one is counted and shown.
    log = out / "served" / "sample-okvqa" / "answers.jsonl"
    first, second = map(json.loads, log.read_text().splitlines())
    log.write_text("".join(json.dumps(line) + "\n" for line in ({**first, "answer": "a cat"}, second)))
    said = compare_answers(out / "sample-okvqa", out / "served" / "sample-okvqa")
    assert said == {"answers": 2, "same": 1, "others": [[first["sample"], first["answer"], "a cat"]]}
