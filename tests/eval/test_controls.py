import json
from pathlib import Path

import numpy as np
from PIL import Image

from fourfold.eval.controls import PaintOut, Perturbation, Shuffle, with_claim, wrong_claims
from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.task import Sample
from fourfold.eval.tasks.benchmark_run import RunOptions, run_benchmark
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
    samples = [Sample(str(number), "?", reference=right) for number, right in enumerate((True, ("cat",), ("dog",)))]
    assert wrong_claims(samples, seed=0) == ["no", "dog", "cat"]
    assert with_claim("[vqa] is there a cat?", "no") == '[vqa] Somebody says: "It is no." is there a cat?'
    assert with_claim("is there a cat?", "no").endswith('." is there a cat?')


def test_perturbations_in_a_run(tmp_path: Path) -> None:
    rows = []
    for number in range(2):
        noise(64, 64).save(tmp_path / f"{number}.png")
        rows.append({"question_id": number, "image": f"{number}.png", "text": "Is there a cat?", "label": "yes"})
    (tmp_path / "pope.json").write_text("\n".join(map(json.dumps, rows)))
    with endpoint(Script()) as script:
        for one in (Perturbation.NONE, Perturbation.PATCH_SHUFFLE, Perturbation.DISTRACTOR):
            options = RunOptions(
                "pope",
                tmp_path,
                tmp_path / "pope.json",
                tmp_path / one,
                EndpointModel([script.url]),
                perturbation=one,
            )
            run_benchmark(options)
        pictures = [body["messages"][0]["content"][0]["image_url"]["url"] for body in script.bodies]
        texts = [body["messages"][0]["content"][1]["text"] for body in script.bodies]
    assert set(pictures[:2]) == set(pictures[4:]) and not set(pictures[:2]) & set(pictures[2:4])
    assert texts[0] == texts[2] and 'Somebody says: "It is no."' in texts[4]
