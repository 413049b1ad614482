"""From a store to an adapter that the engine serves, with a tiny model."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fourfold.assistant.grounding import Box
from fourfold.assistant.refine.record import CorrectedBox
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.training.learn import train
from fourfold.assistant.refine.training.recipe import DEFAULT, Refinement, read_refinement, replay_of
from fourfold.assistant.training.data.mixture import MixtureConfig
from fourfold.assistant.training.preference import Preference
from fourfold.assistant.training.recipe import LoraSettings
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.engine import Engine, Request, Sampling
from tests.assistant.refine.corrections import correction, encoded, picture

REPLAY = MixtureConfig(scenes=6, scenes_per_epoch=6, turns=2, multi_turn=0.0, scene_tasks={"existence": 1, "colour": 1})
TINY = Refinement(
    lora=LoraSettings(rank=4, alpha=8), lora_lr=5e-3, least_steps=6, most_steps=6, batch_size=4, share=0.5,
    replay=REPLAY, replay_images=4, preference=Preference(0.5, 0.1), held_out=0.25,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The same file follows from the same number of threads; an engine between two trainings may choose another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Five corrections, a praised answer, a contradiction and one without consent."""
    directory = tmp_path_factory.mktemp("store")
    kept = CorrectionStore(directory)
    for number in range(5):
        kept.add(correction(number, id=f"colour-{number}"), encoded(picture(number)))
    boxes = (CorrectedBox("ball", Box(0.1, 0.2, 0.3, 0.4)),)
    kept.add(correction(5, id="boxes", chosen=None, boxes=boxes), encoded(picture(5)))
    kept.add(correction(6, id="praised", chosen=None, verdict="up"), encoded(picture(6)))
    kept.add(correction(0, id="against", chosen="green"), encoded(picture(7)))
    kept.add(correction(0, id="against-2", chosen="white"), encoded(picture(7)))
    kept.add(correction(8, id="private", consent=False), encoded(picture(8)))
    return directory


@pytest.fixture(scope="module")
def adapter(store, tiny_checkpoint, tmp_path_factory) -> Path:
    return train(store, tiny_checkpoint, tmp_path_factory.mktemp("out") / "adapter", recipe=TINY, seed=3)


def _told(adapter: Path) -> dict:
    return json.loads((adapter / "training.json").read_text())


def test_training_tells_what_was_learnt_and_what_was_not(adapter):
    told = _told(adapter)
    records = told["corrections"]
    assert len(records["held_out"]) == 2 and len(records["learnt"]) == 4
    assert {*records["held_out"], *records["learnt"]} == {*(f"colour-{n}" for n in range(5)), "boxes"}
    assert records["kept"] == ["praised"]
    assert {doubt["id"] for doubt in records["doubtful"]} == {"against", "against-2"}
    assert told["steps"] == 6 == len(told["losses"]) and told["losses"][-1] < told["losses"][0]
    assert not list(adapter.parent.glob("*.work")) and {path.name for path in adapter.iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "training.json"
    }  # fmt: skip


def test_the_engine_serves_it_and_the_answers_change(adapter, tiny_checkpoint):
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in tensors)
    messages = [{"role": "user", "content": [{"type": "image", "image": picture(0)},
                                             {"type": "text", "text": "[vqa] what colour is thing 0?"}]}]  # fmt: skip
    with Engine.load(tiny_checkpoint, dtype="float32", device="cpu") as engine:
        engine.load_adapter("refined", adapter)
        before, after = (
            engine.score(Request(messages, Sampling(max_tokens=4), adapter=name), ["blue", "red"])
            for name in ("", "refined")
        )
    assert after[0] - after[1] > before[0] - before[1] + 0.1


def test_the_same_corrections_and_seed_give_the_same_adapter(store, tiny_checkpoint, adapter, tmp_path):
    again = train(store, tiny_checkpoint, tmp_path / "again", recipe=TINY, seed=3, on_progress=lambda event: None)
    assert (again / "adapter_model.safetensors").read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()
    assert _told(again)["adapter_sha256"] == _told(adapter)["adapter_sha256"]


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(store, tiny_checkpoint, adapter, tmp_path):
    out = tmp_path / "adapter"

    def interrupt(event):
        if event.stage == "learning" and event.done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(store, tiny_checkpoint, out, recipe=TINY, seed=3, on_progress=interrupt)
    work = tmp_path / "adapter.work"
    assert not out.exists() and torch.load(work / "state.pt", weights_only=True)["step"] == 5
    steps = []
    train(
        store,
        tiny_checkpoint,
        out,
        recipe=TINY,
        seed=3,
        on_progress=lambda event: steps.append(event.done) if event.stage == "learning" else None,
    )
    assert steps == [6] and not work.exists()
    assert (out / "adapter_model.safetensors").read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()


def test_a_run_that_no_longer_fits_is_begun_anew(store, tiny_checkpoint, tmp_path):
    out = tmp_path / "adapter"

    def interrupt(event):
        if event.stage == "learning" and event.done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(store, tiny_checkpoint, out, recipe=TINY, on_progress=interrupt)
    stages = {}
    train(
        store,
        tiny_checkpoint,
        out,
        recipe=TINY,
        seed=1,
        max_steps=2,
        on_progress=lambda event: stages.setdefault(event.stage, []).append((event.done, event.total)),
    )
    assert stages.pop("loading the model") == [(0, None)]
    assert list(stages) == ["describing the images", "looking at the images", "learning"]
    assert stages["learning"] == [(1, 2), (2, 2)]
    for told in stages.values():  # every stage comes to its end, one after the other
        assert told == sorted(told) and told[-1][0] == told[-1][1] > 0
    with pytest.raises(UserError, match="exists already"):
        train(store, tiny_checkpoint, out, recipe=TINY)


def test_a_quarter_of_the_layers_without_preference(store, tiny_checkpoint, tmp_path):
    recipe = replace(TINY, lora=LoraSettings(rank=2, alpha=4, last=0.5), preference=None, most_steps=1, least_steps=1)
    out = train(store, tiny_checkpoint, tmp_path / "quarter", recipe=recipe, on_progress=lambda event: None)
    assert {name.split(".layers.")[1][0] for name in load_file(out / "adapter_model.safetensors")} == {"0"}
    with Engine.load(tiny_checkpoint, dtype="float32", device="cpu", adapter=out) as engine:
        assert engine.default_adapter == "quarter"


def test_nothing_to_learn_is_said(tiny_checkpoint, tmp_path):
    CorrectionStore(tmp_path / "store").add(correction(consent=False), encoded(picture()))
    with pytest.raises(UserError, match="of 1 records 0 have consent"):
        train(tmp_path / "store", tiny_checkpoint, tmp_path / "out", recipe=TINY)


def test_the_default_recipe_can_be_read_and_replays_what_the_model_was_taught(tmp_path, monkeypatch):
    refinement = read_refinement(DEFAULT)
    assert refinement.steps(8) == 40 and refinement.steps(1000) == 60 and refinement.steps(32, most=7) == 7
    assert [refinement.corrections_in_a_batch(count) for count in (1, 8, 32, 1000)] == [1, 1, 2, 2]
    assert replace(refinement, share=1.0).corrections_in_a_batch(8) == refinement.batch_size
    monkeypatch.setenv("FOURFOLD_DATA", str(tmp_path))
    mixture = replay_of(tmp_path, refinement, seed=9)
    assert not mixture.photos and mixture.scenes and mixture.seed == 9
    own = {
        "scenes": 3,
        "scenes_per_epoch": 3,
        "scene_tasks": {"count": 1},
        "photos": {"coco": 1},
        "photo_tasks": {"what": 1},
    }
    (tmp_path / "bridge.json").write_text(json.dumps({"recipe": {"mixture": own}}))
    assert replay_of(tmp_path, refinement, seed=9).scenes == 3
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "coco.jsonl").touch()
    (tmp_path / "bridge.json").write_text(json.dumps({"recipe": {"mixture": own | {"pseudo_labels": "found.jsonl"}}}))
    mixture = replay_of(tmp_path, refinement, seed=9)
    assert mixture.photos and mixture.pseudo_labels is None, "taught with labels that are not on this machine"
    (photos / "found.jsonl").touch()
    assert replay_of(tmp_path, refinement, seed=9).pseudo_labels == "found.jsonl"
    with pytest.raises(UserError, match="share"):
        replace(refinement, share=2.0)


@pytest.mark.parametrize("setting", ["replay_images", "replay_turns"])
def test_nothing_to_replay_is_asked_for_by_the_share(setting):
    with pytest.raises(UserError, match="set share to 1"):
        replace(TINY, **{setting: 0})
    assert getattr(replace(TINY, share=1.0, **{setting: 0}), setting) == 0


def test_without_replay_neither_images_nor_photos_are_needed(store, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("FOURFOLD_DATA", str(tmp_path))
    photos = MixtureConfig(photos={"coco": 1}, photo_tasks={"what": 1})
    recipe = replace(TINY, share=1.0, replay=photos, replay_images=0, replay_turns=0, least_steps=1, most_steps=1)
    out = train(store, tiny_checkpoint, tmp_path / "alone", recipe=recipe, on_progress=lambda event: None)
    assert json.loads((out / "training.json").read_text())["replay"]["kept"] == 1
    with pytest.raises(UserError, match="nothing is left to replay"):
        train(store, tiny_checkpoint, tmp_path / "replayed", recipe=replace(TINY, replay=photos))
