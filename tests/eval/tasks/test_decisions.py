"""Closed questions of the held-out suite, their figures, and temperatures fitted on others."""

import itertools
import json
import re
from pathlib import Path

import pytest

from fourfold.assistant.checkpoints.calibration import read_calibration
from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.assistant.training import data
from fourfold.assistant.training.data import ImageRef, Sample, Turn, calibration
from fourfold.assistant.training.data.calibration import calibration_samples, photos_shown
from fourfold.assistant.training.data.existence import by_kind
from fourfold.assistant.training.data.photos import read_photos
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.eval.log import EvalLog
from fourfold.eval.model import EngineModel
from fourfold.eval.report.decisions import decisions_markdown, draw_reliability
from fourfold.eval.tasks.decisions import decision_figures, fit_calibration, items_of, measure_decisions
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task
from tests.tiny import save_tiny_checkpoint


def sample(answer: str, kind: str, number: int = 0, **facts: object) -> Sample:
    name = f"scenes/test-{number}"
    turn = Turn(Task.VQA, f"[vqa] {kind} {number}?", answer, facts={"kind": kind, **facts})
    return Sample((ImageRef(name, scene=make_scene(name)),), (turn,))


def test_what_a_question_becomes() -> None:
    things = [
        sample(name, "what", number, names=(name,)) for number, name in enumerate(("dog", "cat", "cow", "hen", "ant"))
    ]
    samples = [
        sample("no", "existence"),
        sample("gray", "colour"),
        sample("3", "count"),
        *things,
        sample("silver", "colour"),
        sample("12", "count"),
        sample("exit", "text"),
    ]
    found = items_of(samples)
    assert [item.kind for item in found] == ["predicate", "choice", "score", *["choice"] * 5]
    for item, answer in zip(found, ("no", "gray", "3", "dog", "cat", "cow", "hen", "ant"), strict=True):
        assert item.question.options[item.right].text == answer
    assert all(len({option.text for option in item.question.options}) == 4 for item in found[3:])
    assert items_of(samples) == found


def test_figures_by_hand() -> None:
    items = items_of([sample(answer, "existence", number) for number, answer in enumerate(("yes", "no"))])
    raw = decision_figures(items, [(0.0, -1.0), (0.0, -1.0)], None)
    share = 1 / (1 + 2.718281828**-1)
    assert raw["figures"]["accuracy"]["value"] == 50
    assert raw["figures"]["Brier (0..2)"]["value"] == pytest.approx((1 - share) ** 2 + share**2)
    assert raw["figures"]["ECE (0..1)"]["value"] == pytest.approx(share - 0.5)
    flat = decision_figures(items, [(0.0, -1.0), (0.0, -1.0)], 1e6)["figures"]
    assert flat["Brier (0..2)"]["value"] == pytest.approx(0.5) and flat["ECE (0..1)"]["value"] == pytest.approx(
        0, abs=1e-5
    )


def test_fit_write_and_measure(tmp_path: Path) -> None:
    directory = save_tiny_checkpoint(tmp_path / "tiny")
    samples = {"existence": data.held_out(Task.VQA, "scenes", 5, 250)[:48]}  # as good as any for a random model
    with EngineModel(directory, device="cpu", dtype="float32") as model:
        with EvalLog(tmp_path / "log.jsonl", {"model": model.identity}) as log:
            fitted = fit_calibration(model, samples, log, {"photos": "none"})
            assert set(fitted.temperatures) == {"predicate"} and fitted.model == model_fingerprint(directory)
            assert fitted.fitted["predicate"]["questions"] == 48
            assert fit_calibration(model, samples, log, {"photos": "none"}) == fitted
            with pytest.raises(UserError, match="40 questions"):
                fit_calibration(model, {"existence": samples["existence"][:10]}, log, {})
        fitted.write(directory)
        assert read_calibration(directory) == fitted
        with EvalLog(tmp_path / "held_out.jsonl", {"model": model.identity}) as log:
            asked = {"limit": 6, "sources": ["scenes"], "controls": ["image", "wrong-image", "blind"]}
            found = measure_decisions(model, log, **asked)  # type: ignore[arg-type]
            model.close()
            assert measure_decisions(model, log, **asked) == found  # type: ignore[arg-type]
            assert "engine" not in vars(model), "everything was in the log"
    kinds = found["sources"]["scenes"]
    assert set(kinds) == {"predicate", "choice", "score"} and set(kinds["predicate"]) == set(asked["controls"])
    assert set(kinds["predicate"]["image"]) == {"raw", "calibrated"} and set(kinds["score"]["image"]) == {"raw"}
    page = "\n".join(decisions_markdown(json.loads(json.dumps(found))))
    assert "| predicate, scenes | Brier (0..2), calibrated |" in page and "Temperatures" in page
    draw_reliability(found, tmp_path / "diagram.png")
    assert (tmp_path / "diagram.png").read_bytes().startswith(b"\x89PNG")


def some_photos(source: Path, directory: Path) -> None:
    """Annotations of photos, the captioned ones but a thousand: all take half a minute to read."""
    directory.mkdir()
    for file in source.glob("*.jsonl"):
        with file.open(encoding="utf-8") as lines:
            kept = itertools.islice(lines, 1000 if file.stem == "flickr8k_entities" else None)
            (directory / file.name).write_text("".join(kept), encoding="utf-8")


def test_photos_for_calibration_are_not_held_out_nor_shown(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_photos(shared_data / "photos", tmp_path / "photos")
    monkeypatch.setenv("FOURFOLD_DATA", str(tmp_path))
    mixture = {"photos": {"coco": 1.0, "raccoon": 0.5}, "scenes": 10, "scenes_per_epoch": 5, "seed": 1}
    tasks = {"photo_tasks": {"existence": 1.0}, "scene_tasks": {"existence": 1.0}}
    bridge = {"recipe": {"mixture": mixture | tasks}, "trained_on": {"sequences": 100}}
    shown = photos_shown(bridge)
    assert shown is not None and 90 < len(shown) <= 110
    assert len(photos_shown(bridge | {"trained_on": {"sequences": 5000}}) or ()) == 405 + 178
    assert photos_shown({}) is None
    photos = [photo for photo in read_photos(tmp_path / "photos") if not photo.held_out]
    captioned = [photo for photo in photos if photo.mentions][:400]
    few = [*captioned, *(photo for photo in photos if photo.source in ("coco", "imagenet_sample"))]
    tables = by_kind(captioned)
    monkeypatch.setattr(calibration, "existence_tables", lambda: tables)
    monkeypatch.setattr(calibration, "read_photos", lambda _: few)
    samples, told = calibration_samples(bridge, 30)
    assert "never shown" in told and {sort: len(found) for sort, found in samples.items()} == {
        "existence": 30, "colour": 30, "count": 30, "relation": 6, "what": 30, "annotated": 0, "doing": 30,
    }  # fmt: skip
    asked = [found.turns[0] for found in samples["doing"]]
    assert [turn.answer for turn in asked] == ["yes", "no"] * 15
    assert all(re.fullmatch(r"\[vqa\] is the \w+ \w+ing\?", turn.question) for turn in asked)
    ids = {one.image.id for found in samples.values() for one in found}
    held_out = {photo.id for photo in read_photos(tmp_path / "photos") if photo.held_out}
    assert not ids & held_out and not ids & shown
    answers = [one.turns[0].answer for one in samples["existence"]]
    assert answers.count("yes") == answers.count("no")
    monkeypatch.setattr(calibration, "read_photos", read_photos)
    samples, told = calibration_samples({}, 30)  # nobody knows what it was shown
    assert "held-out" in told and not {one.image.id for found in samples.values() for one in found} - held_out
