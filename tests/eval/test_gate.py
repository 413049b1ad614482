"""The gate's rule on scores made by hand, and a whole gate of a tiny model."""

import json
from pathlib import Path

import pytest

from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.training.learn import train
from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.gate import SliceResult, compare, gate, judge
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.engine import Engine
from tests.assistant.refine.corrections import correction, encoded, picture
from tests.assistant.refine.training.test_learn import TINY
from tests.eval.scripted import Script, endpoint
from tests.serving.api.live import live_server


def result(name, role, before, after):
    return compare(name, role, before, after, [str(number) for number in range(len(before))])


def seen() -> SliceResult:
    return result("corrections seen", "seen", [0] * 12, [1] * 11 + [0])


def test_an_adapter_that_helps_and_harms_nothing_passes():
    target = result("corrections held out", "held out", [0] * 8, [1] * 6 + [0] * 2)
    same = result("scenes/count", "untouched", [1, 0] * 10, [1, 0] * 9 + [0, 1])
    assert judge([seen(), target, same])[:2] == (True, "corrections held out")


def test_what_fell_is_named_with_its_amount():
    target = result("corrections held out", "held out", [0] * 8, [1] * 8)
    fallen = result("photos/existence", "untouched", [1] * 20, [1] * 14 + [0] * 6)
    promotable, _, reasons = judge([seen(), target, fallen])
    assert not promotable
    assert any("photos/existence got worse" in reason and "-30.0" in reason for reason in reasons)


def test_replaced_answers_are_shown_but_not_judged():
    target = result("corrections held out", "held out", [0] * 8, [1] * 8)
    replaced = result("scenes/what, answer out of use", "out of use", [1] * 5, [0] * 5)
    promotable, _, reasons = judge([seen(), target, replaced])
    assert promotable and any("Not judged: scenes/what" in reason and "-100.0" in reason for reason in reasons)


def test_learning_by_heart_does_not_pass():
    target = result("corrections held out", "held out", [0] * 8, [0] * 7 + [1])
    promotable, _, reasons = judge([seen(), target])
    assert not promotable and "did not get better" in reasons[0]


def test_few_held_out_images_leave_the_learnt_ones_as_the_target():
    few = result("corrections held out", "held out", [0] * 3, [1, 0, 0])
    promotable, target, reasons = judge([seen(), few])
    assert promotable and target == "corrections seen" and "Fewer than 5" in reasons[0]


def test_one_image_that_fell_counts_as_worse():
    assert compare("x", "untouched", [1.0, 1.0], [0.0, 1.0], ["a", "a"]).verdict == "worse"
    assert compare("x", "untouched", [0.0, 1.0], [1.0, 1.0], ["a", "a"]).verdict == "no difference shown"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("store")
    kept = CorrectionStore(directory)
    for number in range(8):
        kept.add(correction(number, id=f"c{number}"), encoded(picture(number)))
    for number, chosen in enumerate(("green", "white")):
        kept.add(correction(8, id=f"against-{number}", chosen=chosen), encoded(picture(8)))
    return directory


@pytest.fixture(scope="module")
def adapter(store, tiny_checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("learnt") / "adapter"
    return train(store, tiny_checkpoint, out, recipe=TINY, on_progress=lambda event: None)


def test_a_gate_from_store_to_page(store, adapter, tiny_checkpoint, tmp_path):
    found = gate(store, tiny_checkpoint, adapter, out=tmp_path / "gate", limit=2, sources=["scenes"], device="cpu")
    names = [one.name for one in found.slices]
    assert names[:2] == ["corrections seen", "corrections held out"] and "scenes/existence" in names
    assert found.slices[0].after.n == 6 and found.slices[1].after.n == 2
    assert isinstance(found.promotable, bool) and found.reasons
    assert {doubt.id for doubt in found.doubts} == {"against-0", "against-1"}
    page = found.report.read_text()
    assert page.count("<img") >= 8 and "against-0" in page and "http" not in page.replace("http-equiv", "")
    told = json.loads((tmp_path / "gate" / "gate.json").read_text())
    assert told["promotable"] == found.promotable and len(told["items"]) > 8

    # Again: nothing is asked a second time, and the same is said. Against itself as the baseline nothing changes.
    lines = (tmp_path / "gate" / "answers.jsonl").read_bytes()
    again = gate(store, tiny_checkpoint, adapter, out=tmp_path / "gate", limit=2, sources=["scenes"], device="cpu")
    assert again.summary() == found.summary() and (tmp_path / "gate" / "answers.jsonl").read_bytes() == lines
    itself = gate(store, tiny_checkpoint, adapter, out=tmp_path / "gate", baseline=adapter, limit=2,
                  sources=["scenes"], device="cpu")  # fmt: skip
    assert not itself.promotable and all(one.change.difference.value == 0 for one in itself.slices)


def test_served_adapters_get_the_same_verdict(store, adapter, tiny_checkpoint, tmp_path):
    asked = {"limit": 2, "sources": ["scenes"], "device": "cpu"}
    here = gate(store, tiny_checkpoint, adapter, out=tmp_path / "here", **asked)
    with (
        Engine.load(tiny_checkpoint, dtype="float32", device="cpu", name="tiny") as engine,
        live_server(engine) as live,
    ):
        engine.load_adapter("candidate", adapter)
        served = EndpointModel([live.url], "tiny"), EndpointModel([live.url], "candidate")
        there = gate(store, tiny_checkpoint, adapter, out=tmp_path / "there", served=served, **asked)
    assert there.summary() == here.summary()
    items = [json.loads((tmp_path / side / "gate.json").read_text())["items"] for side in ("here", "there")]
    assert items[0] == items[1] and any(one["before"] != one["after"] for one in items[0])


def test_a_gate_with_holes_is_none(store, adapter, tiny_checkpoint, tmp_path):
    with (
        endpoint(Script(refuse="[caption]")) as script,
        pytest.raises(UserError, match=r"got no answer: .*not this one"),
    ):
        served = EndpointModel([script.url], "old"), EndpointModel([script.url], "new")
        gate(store, tiny_checkpoint, adapter, out=tmp_path, served=served, limit=2, sources=["scenes"])


def test_another_model_or_a_plain_adapter_is_refused(store, tiny_checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"training\.json"):
        gate(store, tiny_checkpoint, tmp_path, out=tmp_path / "gate")
    (tmp_path / "training.json").write_text(json.dumps({"model": "0" * 16}))
    with pytest.raises(UserError, match="another model"):
        gate(store, tiny_checkpoint, tmp_path, out=tmp_path / "gate")
