"""The probe of servers, asked of ours with the tiny model: every check is passed; and of one that does all wrong."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.probe import GROUPS, probe, tables
from benchmarks.probe.__main__ import trap
from benchmarks.probe.asked import Asked
from benchmarks.questions import jpeg, picture
from fourfold.assistant.images import Attachment
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import Live, live_server

PHOTO = Attachment(jpeg(picture()), "picture")
NOT_OURS = {"completions (legacy)": "no: 404"}
"""What is not served here, and why it is asked all the same: the others' figures would be too low."""


@pytest.fixture(scope="module")
def live(tiny_checkpoint: Path) -> Iterator[Live]:
    with Engine.load(tiny_checkpoint, dtype="float32", name="tiny") as engine, live_server(engine) as server:
        yield server


def test_ours_passes_every_check(live: Live, tiny_checkpoint: Path) -> None:
    with trap() as (address, trapped):
        found = probe(Asked(live.url, "tiny", PHOTO, tiny_checkpoint, address, trapped))
    assert {name: answer for name, answer in found.items() if answer != "yes"} == NOT_OURS
    assert trapped == []
    assert len(found) == sum(map(len, GROUPS.values())) >= 60  # no name stands twice


def test_who_is_not_there_passes_only_what_harms_nobody(live: Live, tiny_checkpoint: Path) -> None:
    found = probe(Asked(f"{live.url}/nowhere", "tiny", PHOTO, tiny_checkpoint))
    passed = {name for name, answer in found.items() if answer == "yes"}
    assert found["an answer"] == "no: 404" and found["health"] == "no"
    assert passed == {  # by the server that is there, or by any
        "unknown model: 404", "no such route: 404, in JSON", "request's own id kept", "curl: `Expect: 100-continue`",
    }  # fmt: skip


def test_the_tables_say_who_fails_where() -> None:
    all_yes = {name: "yes" for checks in GROUPS.values() for name in checks}
    shown = list(tables({"fourfold": all_yes, "vllm serve": {**all_yes, "health": "no: 404"}}))
    assert shown[0] == "|  | checks | fourfold | vLLM |"
    assert "| Operators | 4 | 4 | 3 |" in shown and "| health | yes | no: 404 |" in shown
    assert [line for line in shown if "| metrics |" in line] == []  # which both pass
    assert "metrics" in shown[-1] and "health" not in shown[-1]
