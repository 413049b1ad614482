import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourfold.eval.answerer import Answerer
from fourfold.eval.beaf import read_removals, removal_figures, run_beaf
from fourfold.eval.probes import PaintOut, Probe, Shuffle, with_claim, wrong_claims
from fourfold.eval.prompting import PromptConfig
from fourfold.eval.runner import RunOptions, run_benchmark
from fourfold.eval.tasks import Item
from fourfold.prompts.errors import UserError
from tests.eval.scripted import Script, endpoint


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_shuffle_keeps_every_pixel_and_moves_the_pieces() -> None:
    image = noise(67, 45)  # not divisible: the strip at the edges stays
    shuffled = Shuffle(grid=8, seed=1)(image)
    before, after = np.asarray(image), np.asarray(shuffled)
    assert shuffled.size == image.size and not np.array_equal(before, after)
    assert np.array_equal(np.sort(before.reshape(-1, 3), axis=0), np.sort(after.reshape(-1, 3), axis=0))
    assert np.array_equal(before[40:], after[40:]) and np.array_equal(before[:, 64:], after[:, 64:])
    assert shuffled.tobytes() == Shuffle(grid=8, seed=1)(image).tobytes() != Shuffle(grid=8, seed=2)(image).tobytes()


def test_painting_out_continues_the_surroundings() -> None:
    ramp = np.tile(np.linspace(0, 250, 51)[None, :, None], (40, 1, 3)).astype(np.uint8)
    marked = ramp.copy()
    marked[10:30, 15:35] = (255, 0, 0)
    painted = np.asarray(PaintOut(((15, 10, 35, 30),))(Image.fromarray(marked)))
    assert np.abs(painted.astype(int) - ramp).max() <= 1


def test_painting_out_at_the_edges_and_everything() -> None:
    image = noise(20, 20)
    painted = np.asarray(PaintOut(((-5, -5, 8, 8),))(image))
    assert np.array_equal(painted[8:], np.asarray(image)[8:])
    assert np.all(np.asarray(PaintOut(((0, 0, 20, 20),))(image)) == 128)


def test_claims_are_wrong_and_the_tag_stays_first() -> None:
    items = [Item("1", "a", "?", True), Item("2", "a", "?", ("cat",)), Item("3", "a", "?", ("dog",))]
    assert wrong_claims(items, ["yes", "cat", "dog"], seed=0) == ["no", "dog", "cat"]
    assert with_claim("[vqa] is there a cat?", "no") == '[vqa] Somebody says: "It is no." is there a cat?'
    assert with_claim("is there a cat?", "no").endswith('." is there a cat?')


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Three images with a cup to remove and a dog that stays apart."""
    rows = []
    for number in range(3):
        noise(100, 100).save(tmp_path / f"{number}.png")
        boxes = [{"box": [10, 10, 40, 40], "label": "cup"}, {"box": [60.5, 60, 99, 99], "label": "table dog"}]
        if number == 2:
            boxes[1] = {"box": [0, 0, 100, 100], "label": "floor"}  # too large to go, and touched by the cup
        rows.append({"image": f"{number}.png", "width": 100, "height": 100, "boxes": boxes})
    path = tmp_path / "boxes.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_what_may_be_removed_and_kept(scenes: Path) -> None:
    removals = {removal.image: removal for removal in read_removals(scenes, None, seed=0)}
    assert removals["2.png"].removed == "cup" and removals["2.png"].kept is None
    assert {removals["0.png"].removed, removals["0.png"].kept} == {"cup", "table dog"}
    ((x1, y1, x2, y2),) = removals["2.png"].edit.boxes
    assert x1 < 10 and y1 < 10 and x2 > 40 and y2 > 40
    (scenes.parent / "other.json").write_text('[{"question_id": 1}]')
    with pytest.raises(UserError, match="has no boxes"):
        read_removals(scenes.parent / "other.json", None, seed=0)


def test_four_ways_to_answer(scenes: Path) -> None:
    removals = sorted(read_removals(scenes, None, seed=0), key=lambda removal: removal.image)
    answers = {
        "0.png/removed/before": "yes",
        "0.png/removed/after": "No.",
        "0.png/kept/before": "yes",
        "0.png/kept/after": "no",
        "1.png/removed/before": "yes",
        "1.png/removed/after": "yes",
        "1.png/kept/before": "yes",
        "1.png/kept/after": "yes",
        "2.png/removed/before": "no",
        "2.png/removed/after": None,
    }
    figures = {name: round(figure.value, 1) for name, figure in removal_figures(removals, answers).items()}
    assert figures == {
        "true understanding": 33.3,
        "ignorance": 0,
        "stubbornness": 33.3,
        "stubbornness/yes": 33.3,
        "stubbornness/no": 0,
        "unreadable": 33.3,
        "indecision": 50,
    }


def test_beaf_shows_the_edited_image_after(scenes: Path) -> None:
    def reply(messages: list[dict]) -> str:
        picture, question = messages[0]["content"]
        # Images go unchanged before; the edited ones differ in their bytes.
        return "yes" if picture["image_url"]["url"] in originals or "cup" not in question["text"] else "no"

    from fourfold.eval.images import data_uri

    originals = {data_uri(scenes.parent / f"{number}.png") for number in range(3)}
    with endpoint(Script(reply=reply)) as script:
        result = run_beaf(
            Answerer(endpoints=(script.url,)),
            scenes,
            scenes.parent,
            scenes.parent / "out",
            manner=PromptConfig(),
            limit=None,
            seed=0,
        )
    assert result is not None and result["failed"] == 0
    removed = {removal.image: removal.removed for removal in read_removals(scenes, None, seed=0)}
    cups = 100 * sum(label == "cup" for label in removed.values()) / 3
    assert result["figures"]["true understanding"]["value"] == pytest.approx(cups)


def test_probes_in_a_run(tmp_path: Path) -> None:
    rows = []
    for number in range(2):
        noise(64, 64).save(tmp_path / f"{number}.png")
        rows.append({"question_id": number, "image": f"{number}.png", "text": "Is there a cat?", "label": "yes"})
    (tmp_path / "pope.json").write_text("\n".join(map(json.dumps, rows)))
    with endpoint(Script()) as script:
        for probe in (Probe.NONE, Probe.PATCH_SHUFFLE, Probe.DISTRACTOR):
            options = RunOptions(
                "pope",
                tmp_path,
                tmp_path / "pope.json",
                tmp_path / probe,
                Answerer(endpoints=(script.url,)),
                probe=probe,
            )
            run_benchmark(options)
        pictures = [body["messages"][0]["content"][0]["image_url"]["url"] for body in script.bodies]
        texts = [body["messages"][0]["content"][1]["text"] for body in script.bodies]
    assert set(pictures[:2]) == set(pictures[4:]) and not set(pictures[:2]) & set(pictures[2:4])
    assert texts[0] == texts[2] and 'Somebody says: "It is no."' in texts[4]
