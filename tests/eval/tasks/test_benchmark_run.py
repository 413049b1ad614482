"""Runs against a scripted endpoint, our own server, and the engine in process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.memory import REMEMBERED_HEADER, CorrectionMemory
from fourfold.assistant.refine.record import Correction
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.eval import endpoint as endpoint_module
from fourfold.eval.controls import Control, Perturbation
from fourfold.eval.endpoint import EndpointModel, rank_by_first_token
from fourfold.eval.model import EngineModel
from fourfold.eval.report.runs import build_report, write_report
from fourfold.eval.score import score_files
from fourfold.eval.tasks.benchmark_run import Run, RunOptions, run_benchmark
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.engine import Engine
from tests.eval.scripted import Script, endpoint
from tests.serving.api.live import live_server


@pytest.fixture
def pope(tmp_path: Path) -> Path:
    """A POPE of 40 questions on 4 images, with the images under `images/`."""
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(40):
        name = f"COCO_val2014_{number % 4:012d}.jpg"
        Image.new("RGB", (32, 32), (number % 4 * 60, 90, 30)).save(tmp_path / "images" / name)
        rows.append({"question_id": number + 1, "image": name, "text": f"Is there a thing {number}?", "label": "yes"})
    (tmp_path / "pope.json").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def options(folder: Path, **changes: Any) -> RunOptions:
    known: dict[str, Any] = {
        "benchmark": "pope",
        "images": folder / "images",
        "annotations": folder / "pope.json",
        "out": folder / "out",
    }
    return RunOptions(**(known | changes))


def by(*urls: str, **changes: Any) -> EndpointModel:
    return EndpointModel(urls, **changes)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "answers.jsonl").read_text().splitlines()]


def test_asks_each_question_once_with_its_image(pope: Path) -> None:
    with endpoint(Script()) as script:
        run = run_benchmark(options(pope, model=by(script.url)))
        assert run.result is not None and run.result.headline.headline.value == 100
        assert set(script.asked.values()) == {1} and len(script.asked) == 40
        assert script.images == {True: 40}
        body = script.bodies[0]
        assert (body["temperature"], body["seed"], body["max_tokens"], body["model"]) == (0, 0, 20, "scripted")
        assert body["messages"][0]["content"][1]["text"].startswith("[vqa] Based on the image")
        run_benchmark(options(pope, model=by(script.url)))
        assert len(script.asked) == 40 and set(script.asked.values()) == {1}  # nothing was asked again
    again = score_files("pope", pope / "out" / "predictions.json", pope / "pope.json")
    assert again.headline.headline == run.result.headline.headline
    configuration = json.loads((pope / "out" / "run.json").read_text())["configuration"]
    assert configuration["model"] == "scripted" and configuration["control"] == "none"


def test_two_endpoints_share_the_work(pope: Path) -> None:
    with endpoint(Script(delay=0.02)) as one, endpoint(Script(delay=0.02)) as two:
        run_benchmark(options(pope, model=by(one.url, two.url, concurrency=4)))
        assert not set(one.asked) & set(two.asked)
        assert min(len(one.asked), len(two.asked)) > 5
        assert max(one.most_at_once, two.most_at_once) <= 4


def test_busy_answers_are_tried_again(pope: Path) -> None:
    with endpoint(Script(busy_every=6)) as script:
        run = run_benchmark(options(pope, model=by(script.url)))
        assert run.failed == 0 and len(script.asked) == 40 and set(script.asked.values()) == {1}
        assert script.requests > 40


def test_an_endpoint_that_dies_leaves_the_rest_to_the_other(pope: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT", 0.01)
    with endpoint(Script(delay=0.01)) as alive, endpoint(Script(die_after=5)) as dying:
        run = run_benchmark(options(pope, model=by(dying.url, alive.url)))
        assert run.failed == 0
        assert len(dying.asked) + len(alive.asked) == 40


def test_when_all_are_dead_the_answers_stay(pope: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(endpoint_module, "LENIENCE", 5)
    with endpoint(Script(die_after=7)) as script, pytest.raises(UserError, match="run the same command again") as error:
        run_benchmark(options(pope, model=by(script.url)))
    answered = len(lines(pope))
    assert 7 <= answered < 40 and f"{answered} answers are kept" in str(error.value)
    with endpoint(Script()) as script:
        run = run_benchmark(options(pope, model=by(script.url)))
        assert run.failed == 0 and len(script.asked) == 40 - answered


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("text/html", "<html>a page</html>", "no chat completion; is the address right"),
        ("application/json", '{"choices": []}', "no chat completion"),
        ("application/json", '{"choices": [{"index": 0, "message": null}]}', "no chat completion"),
        ("application/json", '{"choices": [{"ind', "no JSON"),
    ],
)
def test_something_else_answers_there(
    pope: Path, monkeypatch: pytest.MonkeyPatch, kind: str, body: str, message: str
) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(endpoint_module, "LENIENCE", 3)
    with endpoint(Script()) as script:
        run_benchmark(options(pope, model=by(script.url), limit=3))
        script.raw = (kind, body)
        with pytest.raises(UserError, match=f"{message}.*3 answers are kept"):
            run_benchmark(options(pope, model=by(script.url)))
    assert len(lines(pope)) == 3


def test_answers_of_100_kb_and_a_report_of_them(pope: Path) -> None:
    long = "yes " + "{<1><2><" * 12_500
    with endpoint(Script(answer=long)) as script:
        run = run_benchmark(options(pope, model=by(script.url), limit=4))
    assert run.result is not None and run.result.headline.headline.value == 100
    assert [line["answer"] for line in lines(pope)] == [long] * 4  # kept as they came
    write_report(build_report([pope / "out"]), pope / "out")
    assert (pope / "out" / "report.html").stat().st_size < 200_000  # shown by their beginning


def test_a_wrong_claim_needs_answers_in_words(tmp_path: Path) -> None:
    row = {"img_id": "7", "sents": "dog", "bbox": [1, 1, 5, 5], "width": 8, "height": 8}
    Image.new("RGB", (8, 8)).save(tmp_path / "7.png")
    (tmp_path / "refcoco.json").write_text(json.dumps([row]))
    with pytest.raises(UserError, match="questions of refcoco have none"):
        run_benchmark(
            RunOptions(
                "refcoco",
                tmp_path,
                tmp_path / "refcoco.json",
                tmp_path / "out",
                by("http://127.0.0.1:9", name="x"),
                perturbation=Perturbation.DISTRACTOR,
            )
        )


def test_nobody_there(pope: Path) -> None:
    with pytest.raises(UserError, match="lists no models"):
        run_benchmark(options(pope, model=by("http://127.0.0.1:9")))


def test_a_refused_sample_is_wrong_counted_and_tried_again_next_time(pope: Path) -> None:
    with endpoint(Script(refuse="thing 7?")) as script:
        run = run_benchmark(options(pope, model=by(script.url)))
        assert run.failed == 1 and run.result is not None
        assert run.result.headline.headline.value == pytest.approx(97.5)
        sample = next(s for s in json.loads((pope / "out" / "samples.json").read_text()) if s["id"] == "8")
        assert "not this one" in sample["error"] and sample["score"] == 0
        script.refuse = None
        assert run_benchmark(options(pope, model=by(script.url))).failed == 0
        assert set(script.asked.values()) == {1}


def test_remembered_corrections_are_not_the_models_answers(pope: Path) -> None:
    with endpoint(Script(remembers="thing 7?")) as script:
        run = run_benchmark(options(pope, model=by(script.url)))
        assert all(body["memory"] is False for body in script.bodies)
        assert run.failed == 1 and run.result is not None
        assert run.result.headline.headline.value == pytest.approx(97.5)
        sample = next(s for s in json.loads((pope / "out" / "samples.json").read_text()) if s["id"] == "8")
        assert "from the correction correction-1" in sample["error"] and sample["answer"] is None
        script.remembers = None
        assert run_benchmark(options(pope, model=by(script.url))).failed == 0
        assert script.asked["[vqa] Based on the image, respond to this question with a short answer: "
                            "Is there a thing 7?"] == 2  # fmt: skip


def test_servers_that_take_openais_fields_alone(pope: Path) -> None:
    with endpoint(Script(strict=True)) as script:
        run = run_benchmark(options(pope, model=by(script.url)))
        assert run.failed == 0 and len(script.asked) == 40
        assert sum("memory" in body for body in script.bodies) <= 4  # those that were under way at first


@pytest.mark.parametrize(
    ("control", "images", "begins"),
    [
        (Control.BLIND, {False: 40}, "[vqa] Based on the image"),
        (Control.TEXT_ONLY, {False: 40}, "Is there a thing"),
        (Control.WRONG_IMAGE, {True: 40}, "[vqa] Based on the image"),
    ],
)
def test_controls(pope: Path, control: Control, images: dict[bool, int], begins: str) -> None:
    with endpoint(Script()) as script:
        run_benchmark(options(pope, model=by(script.url), control=control))
        assert script.images == images
        assert all(prompt.startswith(begins) for prompt in script.asked)
    for sample in json.loads((pope / "out" / "samples.json").read_text()):
        assert sample["file"] != sample["shown_file"]
        assert (sample["shown_file"] is None) == (control is not Control.WRONG_IMAGE)


def test_another_run_does_not_mix_in(pope: Path) -> None:
    with endpoint(Script()) as script:
        run_benchmark(options(pope, model=by(script.url), limit=4))
        with pytest.raises(UserError, match=r"holds another run \(control 'none', now 'blind'\)"):
            run_benchmark(options(pope, model=by(script.url), control=Control.BLIND))
        run_benchmark(options(pope, model=by(script.url), limit=8))
        assert len(script.asked) == 8 and set(script.asked.values()) == {1}  # the first four are among the eight


def test_missing_images_stop_or_are_left_out(pope: Path) -> None:
    (pope / "images" / "COCO_val2014_000000000003.jpg").unlink()
    with endpoint(Script()) as script:
        with pytest.raises(UserError, match="1 images of pope are not under"):
            run_benchmark(options(pope, model=by(script.url)))
        run = run_benchmark(options(pope, model=by(script.url), skip_missing_images=True))
        assert run.asked == 30 and run.result is not None
        assert run.result.facts["questions_without_image"] == 10


def test_killed_and_resumed_asks_nothing_twice(pope: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from fourfold.eval.tasks.benchmark_run import RunOptions, run_benchmark\n"
        "from fourfold.eval.endpoint import EndpointModel\n"
        "f, who = Path(sys.argv[1]), EndpointModel([sys.argv[2]], concurrency=1)\n"
        "run_benchmark(RunOptions('pope', f / 'images', f / 'pope.json', f / 'out', who))"
    )
    with endpoint(Script(delay=0.05)) as script:
        process = subprocess.Popen([sys.executable, "-c", program, str(pope), script.url], stderr=subprocess.DEVNULL)
        while len(script.asked) < 10 and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        answered = {line["sample"] for line in lines(pope)}
        assert 5 < len(answered) < 40
        run = run_benchmark(options(pope, model=by(script.url)))
        assert run.failed == 0
        # One question was in flight when the process died: its answer was never seen.
        assert sum(script.asked.values()) <= 41
    samples = [line["sample"] for line in lines(pope)]
    assert len(samples) == len(set(samples)) == 40


def test_ranking_by_the_first_token(tmp_path: Path) -> None:
    assert rank_by_first_token(("Red", "blue", "cat"), [(" red", -0.1), ("b", -3.0)]) == pytest.approx([-0.1, -3, -3])
    assert rank_by_first_token(("a",), []) is None
    Image.new("RGB", (8, 8)).save(tmp_path / "7.png")
    (tmp_path / "icon.json").write_text(
        json.dumps([{"image_id": "7", "question": "?", "choices": ["blue", "red"], "answer": 1}])
    )
    with endpoint(Script(answer="dunno")) as script:
        run = run_benchmark(
            RunOptions("iconvqa", tmp_path, tmp_path / "icon.json", tmp_path / "out", model=by(script.url))
        )
    assert run.result is not None and run.result.headline.headline.value == 100


def test_hateful_memes_get_p_yes(tmp_path: Path) -> None:
    rows = []
    for number in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
        rows.append({"id": number, "img": f"img/{number}.png", "label": number, "text": "hello"})
    (tmp_path / "hm.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with endpoint(Script(answer="no")) as script:
        run = run_benchmark(
            RunOptions("hatefulmemes", tmp_path, tmp_path / "hm.jsonl", tmp_path / "out", by(script.url))
        )
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert predictions[0]["proba"] == pytest.approx(1 / (1 + 2.718281828**-1))
    assert run.result is not None and run.result.headline.sub_scores["auroc"].value == 50  # type: ignore[union-attr]


def test_vizwiz_test_split_gives_a_submission(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "VizWiz_test_00000000.jpg")
    (tmp_path / "test.json").write_text(json.dumps([{"image": "VizWiz_test_00000000.jpg", "question": "what?"}]))
    with endpoint(Script(answer="a cup")) as script:
        run = run_benchmark(
            RunOptions(
                "vizwiz", tmp_path, None, tmp_path / "out", questions=tmp_path / "test.json", model=by(script.url)
            )
        )
    assert run.result is None
    submission = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert submission == [{"image": "VizWiz_test_00000000.jpg", "answer": "a cup"}]


def test_vqa_test_split_gives_what_evalai_takes(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "COCO_test2015_000000000007.jpg")
    questions = [{"question_id": number, "image_id": 7, "question": "what?"} for number in (71, 70)]
    (tmp_path / "test.json").write_text(json.dumps({"questions": questions}))
    with endpoint(Script(answer="a cup")) as script:
        run = run_benchmark(
            RunOptions("vqav2", tmp_path, None, tmp_path / "out", by(script.url), questions=tmp_path / "test.json")
        )
    assert run.result is None and script.images == {True: 2}
    submission = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert submission == [{"question_id": 71, "answer": "a cup"}, {"question_id": 70, "answer": "a cup"}]


def in_process(folder: Path, checkpoint: Path, **changes: Any) -> Run:
    with EngineModel(checkpoint) as model:
        return run_benchmark(options(folder, model=model, **changes))


def test_in_process_and_through_our_server_agree(pope: Path, tiny_checkpoint: Path) -> None:
    """Even where the server remembers the right answer to a question."""
    local = in_process(pope, tiny_checkpoint, limit=6)
    asked = json.loads((pope / "out" / "samples.json").read_text())[0]
    store = CorrectionStore(pope / "store")
    content = [{"type": "image"}, {"type": "text", "text": asked["prompt"]}]
    correction = Correction(
        messages=({"role": "user", "content": content},), rejected=asked["answer"], chosen="remembered", consent=True
    )
    correction = store.add(correction, Path(asked["file"]).read_bytes())
    memory = CorrectionMemory(store)
    with Engine.load(tiny_checkpoint, name="tiny") as engine, live_server(engine, memory=memory) as live:
        served = run_benchmark(options(pope, model=by(live.url), limit=6, out=pope / "served"))
        url = Attachment.from_path(asked["file"]).data_uri
        told = live.chat([{"type": "image_url", "image_url": {"url": url}}, content[1]], max_tokens=20)
    assert told.json()["choices"][0]["message"]["content"] == "remembered"  # to anybody else
    assert told.headers[REMEMBERED_HEADER] == correction.id
    assert local.asked == served.asked == 6 and served.failed == 0
    answers = [(folder / "predictions.json").read_text() for folder in (pope / "out", pope / "served")]
    assert answers[0] == answers[1]


def test_in_process_ranking_uses_whole_candidates(tmp_path: Path, tiny_checkpoint: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "7.png")
    (tmp_path / "icon.json").write_text(
        json.dumps([{"image_id": "7", "question": "?", "choices": ["red car", "red fox", "one"], "answer": 1}])
    )
    with EngineModel(tiny_checkpoint) as model:
        run = run_benchmark(RunOptions("iconvqa", tmp_path, tmp_path / "icon.json", tmp_path / "out", model))
    (record,) = lines(tmp_path)
    assert len(set(record["scores"])) == 3 and run.result is not None
    assert run.result.headline.parse_failures == 0
