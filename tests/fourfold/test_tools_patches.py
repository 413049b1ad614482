"""`fourfold tools`, what reads the tower's patches, with the tiny checkpoint."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fourfold.assistant.checkpoints.fingerprint import tower_fingerprint
from fourfold.assistant.patches.mask_head import MaskHead
from fourfold.assistant.patches.tower import Tower
from fourfold.assistant.readouts import ReadoutLibrary, concept_readout, save_library
from fourfold.assistant.readouts.annotations import read_annotations
from fourfold.assistant.readouts.box_head import SHAPES, BoxHead
from fourfold.assistant.readouts.calibration import EVIDENCE, BoxCalibration, PresenceCalibration
from fourfold.assistant.readouts.domain import Moments
from fourfold.assistant.training.data.surfaces import DEFECTS, make_surface
from fourfold.cli import main
from fourfold.cli.tools import app
from fourfold.prompts.errors import UserError
from tests.serving.looking.learnt import scene

_REST = ("--model", "TINY", "--out", "x.png")


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def saved(picture: Image.Image, path: Path) -> Path:
    picture.save(path)
    return path


@pytest.fixture(scope="module")
def library(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What patches of such pictures look like, and one thing that was shown in some of them."""
    see, moments, examples = Tower(tiny_checkpoint), Moments(32), []
    for seed in range(24):
        picture, boxes = scene(seed, ("dog", "cat", "horse")[seed % 3])
        features = see(picture)
        moments.add(features)
        if "dog" in boxes:
            examples.append((features, [boxes["dog"]], True))
    domain = moments.domain("photos")
    learnt = ReadoutLibrary(
        tower_fingerprint(tiny_checkpoint),
        (replace(concept_readout("dog", examples, domain), kind="noun"),),
        {"photos": domain},
        BoxHead({name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}),
        PresenceCalibration({kind: np.zeros(EVIDENCE + 1, np.float32) for kind in ("noun", "concept")}),
        BoxCalibration(),
    )
    path = tmp_path_factory.mktemp("library") / "library.safetensors"
    save_library(learnt, path)
    return path


def test_the_tower_alone_sees_what_the_engine_sees(tiny_checkpoint: Path) -> None:
    from fourfold.assistant.readouts.features import normalised
    from fourfold.serving.engine.engine import Engine

    picture, _ = scene(0, "dog")
    with Engine.load(tiny_checkpoint, max_num_seqs=1) as engine:
        expected = normalised(engine.vision_features(picture))
    np.testing.assert_allclose(Tower(tiny_checkpoint)(picture), expected, atol=0.05)


def test_compare_tells_a_good_picture_from_one_with_something_in_it(tmp_path: Path, tiny_checkpoint: Path) -> None:
    good = tmp_path / "good"
    good.mkdir()
    for seed in range(6):
        saved(scene(seed)[0], good / f"{seed}.png")
    bad, boxes = scene(9, "horse")
    asked = "compare", saved(bad, tmp_path / "bad.png"), "--good", good, "--model", tiny_checkpoint
    told = json.loads(run(*asked, "--json", "--out", tmp_path / "heat.png"))
    assert told["differs"]
    assert told["good"] == 6
    box, (x, y) = boxes["horse"], told["place"]
    assert box.x1 <= x <= box.x2 and box.y1 <= y <= box.y2
    with Image.open(tmp_path / "heat.png") as heat:
        assert heat.size == bad.size
    assert run(*asked).partition(": ")[2].startswith("differs, most at ")
    same = run("compare", good / "0.png", "--good", good, "--model", tiny_checkpoint)
    assert same == "0.00: like the good ones\n"


def test_parts_of_one_picture_are_found_in_others(
    tmp_path: Path, tiny_checkpoint: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fourfold.assistant.readouts.storage import read_library
    from fourfold.cli import tools_patches

    monkeypatch.setattr(tools_patches, "library_of", lambda checkpoint, file=None: read_library(library))
    shown, boxes = scene(300, "dog", "cat")
    like = saved(shown, tmp_path / "like.png")
    masks = []
    for name, box in boxes.items():
        mask = Image.new("1", shown.size)
        mask.paste(1, tuple(round(side) for side in box.to_pixels(*shown.size)))
        masks += ["--mask", f"{name}={saved(mask, tmp_path / f'{name}.mask.png')}"]
    other, where = scene(301, "dog", "cat")
    asked = saved(other, tmp_path / "other.png")
    said = run("parts", asked, "--like", like, *masks, "--model", tiny_checkpoint, "--out", tmp_path / "maps")
    for name, box in where.items():
        [line] = [line for line in said.splitlines() if f": {name} at " in line]
        x, y = (int(number) / 100 for number in line.rpartition(" ")[2].split(","))
        assert box.x1 <= x <= box.x2 and box.y1 <= y <= box.y2
    assert (tmp_path / "maps" / "other.png").is_file()


def test_a_heat_map_is_hot_where_the_noun_is(tmp_path: Path, tiny_checkpoint: Path, library: Path) -> None:
    picture, boxes = scene(400, "dog")
    out = tmp_path / "heat.png"
    asked = saved(picture, tmp_path / "asked.png")
    said = run("heat-map", asked, "dogs", "--library", library, "--model", tiny_checkpoint, "--out", out)
    assert ": dog, in the picture with " in said
    with Image.open(out) as heat:
        pixels = np.asarray(heat, int)
    colourful = pixels.max(-1) - pixels.min(-1)
    x1, y1, x2, y2 = (round(side) for side in boxes["dog"].to_pixels(*picture.size))
    inside = np.zeros(colourful.shape, bool)
    inside[y1:y2, x1:x2] = True
    assert colourful[inside].mean() > colourful[~inside].mean() + 20


def test_surfaces_are_annotated_for_learning(tmp_path: Path) -> None:
    folder = tmp_path / "surfaces"
    run("surfaces", folder, "--count", 5)
    read = read_annotations(folder, folder / "surfaces.jsonl")
    assert len(read) == 5
    for place, (_, example) in enumerate(read):
        surface = make_surface(f"learn {place}")
        assert {name for thing in example.things for name in thing.nouns} == set(surface.kinds) <= set(DEFECTS)
        with Image.open(folder / f"{place:05d}.mask.png") as mask:
            assert np.array_equal(np.asarray(mask), surface.mask)


def test_a_mask_is_made_by_a_head_that_was_taught_for_this_tower(tmp_path: Path, tiny_checkpoint: Path) -> None:
    head = tmp_path / "head.safetensors"
    photo = saved(scene(0, "dog")[0], tmp_path / "photo.png")
    asked = "segment", photo, "--box", "25,25,75,75", "--out", tmp_path / "mask.png", "--head", head
    MaskHead(32).save(head, {"tower": tower_fingerprint(tiny_checkpoint)})
    told = json.loads(run(*asked, "--model", tiny_checkpoint, "--json"))
    assert (told["size"], told["confidence"]) == ([64, 64], None)
    with Image.open(tmp_path / "mask.png") as mask:
        assert not np.asarray(mask)[:16].any()
    MaskHead(32).save(head, {"tower": "another"})
    with pytest.raises(UserError, match="taught for another image tower"):
        run(*asked, "--model", tiny_checkpoint)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["compare", "PHOTO", "--good", "nowhere"], "there is no such folder"),
        (["compare", "PHOTO", "--good", "."], "two pictures or more, and there are 1"),
        (["parts", "PHOTO", "--like", "PHOTO", "--mask", "wheel", "--model", "TINY"], "wheel=wheel.png"),
        (
            ["heat-map", "PHOTO", "x" * 10_000, "--library", "LIBRARY", "--model", "TINY", "--out", "x.png"],
            "no read-out",
        ),
        (["heat-map", "PHOTO", "dog", "--library", "none", "--model", "TINY", "--out", "x.png"], "none"),
        (["surfaces", "."], "not empty"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    words: list[str],
    says: str,
    tmp_path: Path,
    tiny_checkpoint: Path,
    library: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Image.new("RGB", (64, 64)), tmp_path / "photo.png")
    real = {"PHOTO": "photo.png", "TINY": str(tiny_checkpoint), "LIBRARY": str(library)}
    monkeypatch.setattr(sys, "argv", ["fourfold", "tools", *(real.get(word, word) for word in words)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said) < 500
    assert said.strip().count("\n") == 0
