"""What a model is good at comes with it, and an endpoint that says so in any shape breaks nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from fourfold.assistant.checkpoints.bridge import BRIDGE, LEARNT_BESIDE
from fourfold.assistant.checkpoints.card import (
    CARD_FILE,
    Card,
    MeasuredCard,
    TaskCard,
    card_read,
    read_card,
    write_certainty,
)
from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task


def test_a_card_is_read_as_it_is_told() -> None:
    card = Card("Good at dogs.", {Task.REFER: TaskCard("good", "60 of 100"), Task.VQA: TaskCard("unsure", "")})
    assert card_read(json.loads(json.dumps(card.to_json()))) == card


@pytest.mark.parametrize(
    "value", [None, "", 7, [], {}, {"line": 7}, {"line": "  "}, {"tasks": {}}, {"line": None, "tasks": []}]
)
def test_what_is_no_card_is_none(value: Any) -> None:
    assert card_read(value) is None


def test_what_is_odd_in_a_card_is_left_out() -> None:
    tasks = {"refer": {"level": "superb"}, "fly": {"level": "good"}, "vqa": "good"}
    known = {"caption": {"level": "poor", "note": 3}}
    card = card_read({"line": "a\nb " + "x" * 5000, "tasks": {**tasks, **known}})
    assert card is not None and card.line.startswith("a b x") and len(card.line) == 200
    assert card.tasks == {Task.CAPTION: TaskCard("poor", "3")}
    assert card_read({"line": "a", "tasks": [1]}) == Card("a")


def test_a_checkpoint_may_have_one(tmp_path: Path) -> None:
    assert read_card(tmp_path) is None
    (tmp_path / "config.json").write_text("{}")
    before = model_fingerprint(tmp_path)
    told = {"talks": False, "eyes": {"line": "Good."}, "certainty": {"what": [1, -0.5]}}
    (tmp_path / CARD_FILE).write_text(json.dumps(told))
    card = read_card(tmp_path)
    assert card is not None and (card.talks, card.alone, card.eyes) == (False, None, Card("Good."))
    assert card.certainty == {"what": (1.0, -0.5)}
    assert model_fingerprint(tmp_path) == before  # it is the same model


def test_what_was_fitted_is_put_beside_what_is_said(tmp_path: Path) -> None:
    write_certainty(tmp_path, {"what": (1.0, 0.5)})
    assert read_card(tmp_path) == MeasuredCard(certainty={"what": (1.0, 0.5)})
    (tmp_path / CARD_FILE).write_text(json.dumps({"talks": False, "eyes": {"line": "Good."}}))
    write_certainty(tmp_path, {"number": (2.0, 0.0)})
    assert read_card(tmp_path) == MeasuredCard(eyes=Card("Good."), talks=False, certainty={"number": (2.0, 0.0)})


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"certainty": {"what": 1}}', '{"certainty": {"what": [1, NaN]}}', "\xff"]
)
def test_a_damaged_one_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / CARD_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"card\.json is no model's card"):
        read_card(tmp_path)


def test_the_default_model_has_one() -> None:
    assert CARD_FILE in LEARNT_BESIDE
    card = read_card(BRIDGE)
    assert card is not None and not card.talks
    assert card.alone is not None and card.eyes is not None and len(card.eyes.line) <= 140
    assert card.eyes.tasks[Task.REFER].level == "good" and card.alone.tasks[Task.REFER].level == "unsure"
    assert {"what", "yes or no", "caption"} <= set(card.certainty)
