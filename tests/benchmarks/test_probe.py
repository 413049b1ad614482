"""The probe of servers, asked of ours with the tiny model: every call is answered."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.probe import PROBES, Asked, probe, table
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import Live, data_uri, live_server


@pytest.fixture(scope="module")
def live(tiny_checkpoint: Path) -> Iterator[Live]:
    with Engine.load(tiny_checkpoint, dtype="float32", name="tiny") as engine, live_server(engine) as server:
        yield server


def test_ours_answers_every_call(live: Live) -> None:
    found = probe(Asked(live.url, "tiny", data_uri(size=(300, 200), kind="JPEG")))
    assert {name: answer for name, answer in found.items() if answer != "yes"} == {}


def test_who_is_not_there_is_told(live: Live) -> None:
    found = probe(Asked(f"{live.url}/nowhere", "tiny", data_uri()))
    assert found["chat"] == "no: 404" and found["health"] == "no: accepted, not done"
    shown = table({"nowhere": found}).splitlines()
    assert len(shown) == len(PROBES) + 2 and shown[2] == "| chat | no: 404 |"
