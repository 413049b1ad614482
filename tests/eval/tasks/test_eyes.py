"""The measurement of the eyes, on a tiny model whose library was learnt from rendered scenes."""

import random
from pathlib import Path

import pytest

from fourfold.assistant.readouts import READOUTS, save_library
from fourfold.assistant.readouts.annotations import scene_examples
from fourfold.assistant.readouts.folder import learn_from_pictures
from fourfold.eval.model import EngineModel
from fourfold.eval.report.eyes import eyes_markdown
from fourfold.eval.tasks.eyes import run_eyes
from fourfold.eval.tasks.show_once import average_precision
from fourfold.prompts.errors import UserError


@pytest.fixture(scope="module")
def seeing(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with read-outs of its random tower."""
    directory = tmp_path_factory.mktemp("seeing") / "seeing"
    directory.mkdir()
    for file in tiny_checkpoint.iterdir():
        (directory / file.name).symlink_to(file)
    library = learn_from_pictures(scene_examples(60), tiny_checkpoint, directory.parent / "features")
    save_library(library, directory / READOUTS)
    return directory


def test_every_way_answers_the_same_questions_and_a_second_run_asks_nothing(seeing: Path, tmp_path: Path) -> None:
    ways = ("model alone", "read-outs", "loop")
    with EngineModel(seeing, device="cpu") as model:
        measured = run_eyes(model, limit=3, out=tmp_path, sources=["scenes"], only=ways)
        logs = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
        again = run_eyes(model, limit=3, out=tmp_path, sources=["scenes"], only=ways)
    assert logs == {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")} and len(logs) == 3
    assert again["results"] == measured["results"] and measured["show_once"] is None
    by_kind = {group["kind"]: group for group in measured["results"]}
    assert set(by_kind) >= {"refer", "detection", "existence"}
    refer = by_kind["refer"]
    assert list(refer["ways"]) == list(ways) and refer["n"] == 3 and refer["known"] == 1
    change = refer["ways"]["read-outs"]["against the model alone"]
    alone, read_outs = (refer["ways"][way]["acc@0.5"]["value"] for way in ways[:2])
    assert change["difference"]["value"] == pytest.approx(read_outs - alone)
    assert 3 * (read_outs - alone) / 100 == pytest.approx(change["wrong to right"] - change["right to wrong"])
    assert refer["ways"]["read-outs"]["no box"]["value"] == 0 < refer["ways"]["read-outs"]["seconds"]
    text = eyes_markdown(measured)
    assert "### refer, scenes" in text and "| acc@0.5 |" in text


def test_a_model_without_read_outs_and_an_unknown_way_are_refused(
    seeing: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="has no read-outs"):
        run_eyes(EngineModel(tiny_checkpoint), limit=1, out=tmp_path)
    with pytest.raises(UserError, match="no way 'guessing'"):
        run_eyes(EngineModel(seeing), limit=1, out=tmp_path, only=["guessing"])


def test_average_precision_is_the_mean_of_precisions_at_each_right_one() -> None:
    drawn = random.Random(0)
    ranked = [(drawn.random(), drawn.random() < 0.3) for _ in range(50)]
    labels = [right for _, right in sorted(ranked, reverse=True)]
    expected = sum(sum(labels[: k + 1]) / (k + 1) for k in range(50) if labels[k]) / sum(labels)
    assert average_precision(ranked) == pytest.approx(expected)
    assert average_precision([(0.9, True), (0.1, False)]) == 1 and average_precision([(0.5, False)]) == 0
