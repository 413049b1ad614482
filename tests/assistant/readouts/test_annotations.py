"""Annotated folders as examples, and the command that learns from them."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from fourfold.assistant.grounding import Box
from fourfold.assistant.readouts import NamedThing, read_library
from fourfold.assistant.readouts.annotations import read_annotations, scene_examples
from fourfold.assistant.training.data.scenes import SIZE, make_scene
from fourfold.cli.readouts import app
from fourfold.prompts.errors import UserError


def coco(folder: Path, count: int) -> Path:
    """Rendered scenes with their shapes in COCO's form."""
    names = ["circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring", "pentagon", "rectangle"]
    told: dict = {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in enumerate(names)]}
    for number in range(count):
        scene = make_scene(f"tests/{number}")
        scene.render().save(folder / f"{number}.png")
        told["images"].append({"id": number, "file_name": f"{number}.png", "width": SIZE, "height": SIZE})
        for item in scene.items:
            x1, y1, x2, y2 = item.box.to_pixels(SIZE, SIZE)
            told["annotations"].append(
                {"image_id": number, "category_id": names.index(item.shape), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            )
    path = folder / "instances.json"
    path.write_text(json.dumps(told))
    return path


def test_coco_boxes_become_things(tmp_path: Path) -> None:
    Image.new("RGB", (100, 50)).save(tmp_path / "a.png")
    told = {
        "images": [{"id": 7, "file_name": "a.png", "width": 100, "height": 50}],
        "categories": [{"id": 1, "name": "Traffic_lights"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [10, 10, 20, 10]},
            {"image_id": 7, "category_id": 1, "bbox": [50, 10, 20, 10], "iscrowd": 1},
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(told))
    [(image, example)] = read_annotations(tmp_path, tmp_path / "a.json")
    assert image.open().size == (100, 50)
    assert example.things == (NamedThing(("traffic light",), (Box(0.1, 0.2, 0.3, 0.4),)),)
    assert example.lacks("dog") and not example.lacks("traffic light") and not example.lacks("cat")


def test_phrases_of_json_lines_have_nouns_and_colours_and_held_out_lines_stay_out(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    phrase = {"caption": 0, "phrase": "A red ball", "span": [0, 10], "types": [], "entity": "1"}
    row = {
        "id": "a", "image": "a.png", "width": 100, "height": 100, "split": "train", "captions": ["A red ball ."],
        "phrases": [{**phrase, "boxes": [[10, 10, 40, 40]]}],
    }  # fmt: skip
    lines = [row, {**row, "id": "b", "split": "heldout"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    [(_, example)] = read_annotations(tmp_path, tmp_path / "a.jsonl")
    assert example.things == (NamedThing(("ball",), (Box(0.1, 0.1, 0.4, 0.4),), ("red",)),)
    assert example.lacks("dog") and not example.lacks("ball")


def test_scenes_have_shapes_with_colours_and_are_pictures_of_their_own_sort() -> None:
    for image, example in scene_examples(3):
        assert image.scene is not None and example.domain == "scenes" and example.key == image.key
        drawn = {(item.shape, item.colour) for item in image.scene.items}
        assert set(example.coloured) == drawn


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "there are no annotations"),
        ("a.txt", "x", "neither COCO's .json nor a .jsonl"),
        ("a.json", "{", "not in COCO's form"),
        ("a.json", "[]", "not in COCO's form"),
        ("a.json", '{"images": [], "annotations": [], "categories": []}', "no box"),
        ("a.jsonl", '{"id": "x"}', "not in the form of our JSON Lines"),
        ("a.jsonl", "nonsense", "not in the form of our JSON Lines"),
        (
            "a.json",
            '{"images": [{"id": 1, "file_name": "gone.png", "width": 9, "height": 9}], "categories": '
            '[{"id": 1, "name": "dog"}], "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3]}]}',
            "gone.png, which is not in",
        ),
    ],
)
def test_bad_annotations_are_refused_in_a_sentence(tmp_path: Path, name: str, content: str, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_annotations(tmp_path, tmp_path / name)


def test_the_command_learns_a_library_and_shows_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file, out = coco(tmp_path, 150), tmp_path / "library.safetensors"
    arguments = ["learn", str(tmp_path), "--annotations", str(file), "--model", str(tiny_checkpoint), "--out", str(out)]
    runner = CliRunner()
    result = runner.invoke(app, [*arguments, "--steps", "3"])
    assert result.exit_code == 0, result.output
    library = read_library(out)
    assert "circle" in library.names and library.provenance["annotations"] == ["instances.json"]
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "library.features").rglob("*.safetensors")}
    assert runner.invoke(app, [*arguments, "--steps", "3"]).exit_code == 0  # and goes on with the features it has
    assert kept == {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "library.features").rglob("*.safetensors")
    }
    shown = runner.invoke(app, ["show", str(out), "--json"])
    assert json.loads(shown.stdout)["nouns"]["circle"] >= 5


def test_too_few_pictures_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file, out = coco(tmp_path, 3), tmp_path / "x.safetensors"
    arguments = ["learn", str(tmp_path), "--annotations", str(file), "--model", str(tiny_checkpoint), "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UserError) and not out.exists()
