"""Nothing is left of what was to leave nothing: every file, log and metric is searched for a picture and for words."""

import asyncio
import base64
import io
import json
import logging
import os
import sqlite3
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from langchain_core.messages import AIMessage, HumanMessage

from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.grounding import Box
from fourfold.assistant.images import LIMITS
from fourfold.assistant.readouts import normalised
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.assistant.refine.memory import CorrectionMemory
from fourfold.assistant.refine.record import CorrectedBox, Correction
from fourfold.assistant.refine.registry import Registry
from fourfold.assistant.refine.steps import forget
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.cli.concepts import forgotten
from fourfold.serving.api.concepts import concept_routes
from fourfold.serving.engine.engine import Engine
from fourfold.ui.state.pictures import take
from fourfold.ui.state.preferences import Preferences
from fourfold.ui.state.session import Session
from fourfold.ui.state.settings import Settings, configure
from tests.assistant.refine.test_registry import built
from tests.serving.api.live import chunks, live_server
from tests.trust.clients import wrong
from tests.trust.traces import Canary
from tests.ui.scripted import Scripted
from tests.ui.test_page import ask, keys, page, run, until, words

CANARY, OTHER = Canary(1), Canary(2)
_AT_WRITING = {"open": 2, "os.mkdir": None, "os.rename": None, "shutil.copyfile": None, "sqlite3.connect": None}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that a program may think of as a place for files lies below it."""
    for variable, name in {
        "HOME": "home",
        "XDG_DATA_HOME": "home/.local/share",
        "XDG_CACHE_HOME": "home/.cache",
        "XDG_CONFIG_HOME": "home/.config",
        "FOURFOLD_CACHE": "cache",
        "TMPDIR": "tmp",
    }.items():
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv(variable, str(tmp_path / name))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


class Written:
    """Files that this process opened for writing, by any library that asks Python."""

    _now: "Written | None" = None

    def __init__(self) -> None:
        self.files: list[str] = []

    def __enter__(self) -> "Written":
        if not hasattr(Written, "_hooked"):  # a hook stays for ever
            sys.addaudithook(Written._hear)
            Written._hooked = True  # type: ignore[attr-defined]
        Written._now = self
        return self

    def __exit__(self, *exception: object) -> None:
        Written._now = None

    @staticmethod
    def _hear(event: str, arguments: tuple[Any, ...]) -> None:
        now = Written._now
        if now is None or event not in _AT_WRITING:
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        now.files.append(str(arguments[0]))


def copies(canary: Canary) -> dict[str, bytes]:
    """What people, libraries and databases make of a picture and of words."""
    small, grey, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    canary.image.resize((40, 40)).save(small, "JPEG", quality=60)
    canary.image.convert("L").save(grey, "GIF")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", canary.file)
    pixels = np.asarray(canary.image)
    return {
        "file": canary.file,
        "in the middle": b"x" * 1001 + canary.file,
        "data URI": json.dumps({"image_url": canary.attachment.data_uri}).encode(),
        "thumbnail": b"\0" * 77 + small.getvalue(),
        "thumbnail in base64": b"src='data:image/jpeg;base64," + base64.b64encode(small.getvalue()) + b"'",
        "grey": grey.getvalue(),
        "zip": packed.getvalue(),
        "pixels": pixels.tobytes(),
        "RGBA": np.asarray(canary.image.convert("RGBA")).tobytes(),
        "floats": (pixels.astype(np.float32) / 255).tobytes(),
        "hash": canary.attachment.sha256.encode(),
        "words": f"user asked: {canary.words}?".encode(),
        "lower": canary.words.lower().encode(),
        "UTF-16": canary.words.lower().encode("utf-16-le"),
        "words in base64": base64.b64encode(b"q:" + canary.words.encode()),
    }


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    for name, data in copies(CANARY).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / CANARY.words).mkdir()
    (tmp_path / CANARY.words / "log").touch()
    found = CANARY.below(tmp_path)
    assert {name for name in copies(CANARY) if name not in found} == set()
    assert any("its name" in name for name in found)
    assert OTHER.below(tmp_path) == {}


# Sessions of which nothing is to be left.


def test_the_page_that_keeps_nothing(
    home: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    endpoint = Scripted().start()
    try:
        data = home / "data"
        settings = Settings(endpoint.url, history=data / "history.sqlite", corrections=data / "refine")
        configure(settings)
        for name in ("fourfold", "streamlit", "PIL", "asyncio"):
            caplog.set_level(logging.DEBUG, name)
        app = page()
        app.toggle(key="private").set_value(True)
        run(app)
        app.session_state.session.pending = [take(CANARY.file, f"{CANARY.words}.png")]
        ask(app, f"{CANARY.words}, and html")
        until(app, lambda app: "edit-0" in keys(app))
        ask(app, f"fail with 500, {CANARY.words}")
        until(app, lambda app: any(key.startswith("again-") for key in keys(app)))
        ask(app, f"What colour is the ball, {CANARY.words}?")
        until(app, lambda app: "The ball is red" in words(app))
        assert CANARY.in_bytes(json.dumps(endpoint.requests).encode()) >= {"word 0", "a picture of it"}
        session = app.session_state.session
        session.pending = [CANARY.attachment]  # a draft, and away from it
        session.open(None)
        app.toggle(key="private").set_value(False)
        run(app)
        assert CANARY.in_bytes(words(app).encode()) == set()
    finally:
        endpoint.shutdown()
        endpoint.server_close()
    said = capfd.readouterr()
    assert CANARY.in_bytes("\n".join([caplog.text, said.out, said.err]).encode()) == set()
    assert (data / "page.json").exists() and CANARY.below(home) == {}
    assert not Preferences.load(settings.preferences).private


def test_a_server_writes_nothing_down(
    tiny_checkpoint: Path, home: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    """No file at all, and in logs and metrics neither a picture nor a word, whatever the level and whatever fails."""
    store = CorrectionStore(home / "refine")
    for name in ("httpx", "httpcore"):  # the client's own
        caplog.set_level(logging.WARNING, name)
    caplog.set_level(logging.DEBUG)
    with (
        Engine.load(tiny_checkpoint, dtype="int8", device="cpu", name="tiny") as engine,
        live_server(engine, memory=CorrectionMemory(store)) as server,
        Written() as written,
    ):
        picture = {"type": "image_url", "image_url": {"url": CANARY.attachment.data_uri}}
        content = [picture, {"type": "text", "text": CANARY.words}]
        assert server.chat(content).status_code == 200
        assert chunks(server.chat(content, stream=True, user=CANARY.words, metadata={"a": CANARY.words}))
        for body in wrong(content, CANARY):
            response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
            assert 400 <= response.status_code < 500, (body.keys(), response.text)
        raw = json.dumps({"messages": [{"role": "user", "content": content}]})[:-3]
        assert httpx.post(f"{server.url}/v1/chat/completions", content=raw).status_code == 415
        metrics = httpx.get(f"{server.url}/metrics", params={"q": CANARY.words}).content
        failing(engine, server.url, content)
    said = capfd.readouterr()
    log = "\n".join([caplog.text, said.out, said.err])
    assert "POST /v1/chat/completions 200" in log and "ZeroDivisionError" in log
    assert CANARY.in_bytes(log.encode()) == set() and CANARY.in_bytes(metrics) == set()
    # Its own store is looked into, and decoders have no disk to write to.
    others = [path for path in written.files if "corrections.sqlite" not in path and not path.startswith("/dev/")]
    assert [path for path in others if not path.isdecimal()] == []
    assert CANARY.below(home) == {}


def failing(engine: Engine, url: str, content: list[dict[str, Any]]) -> None:
    """A failure of our own: its traceback goes into the log, with lines of code and no values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "submit", lambda *_: 1 / 0)
        body = {"messages": [{"role": "user", "content": content}]}
        response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        assert response.status_code == 500 and CANARY.in_bytes(response.content) == set()


# What was kept, and is deleted.


def asked(canary: Canary) -> HumanMessage:
    image = {"type": "image_url", "image_url": {"url": canary.attachment.data_uri}}
    return HumanMessage([image, {"type": "text", "text": f"{canary.words}?"}])


def told(canary: Canary) -> AIMessage:
    return AIMessage(f"That is {canary.words}.", response_metadata={"fourfold": {"model": canary.words}})


@pytest.fixture
def reader(home: Path) -> Iterator[Any]:
    """Another program that looks into a file all the while, so that its log lives on."""
    opened: list[sqlite3.Connection] = []

    def read(path: Path) -> sqlite3.Connection:
        opened.append(sqlite3.connect(path, isolation_level=None))
        opened[-1].execute("SELECT count(*) FROM sqlite_master").fetchall()
        return opened[-1]

    yield read
    for connection in opened:
        connection.close()


@pytest.mark.parametrize("beside", ["alone", "another program has the file open"])
def test_a_deleted_conversation(home: Path, reader: Any, beside: str) -> None:
    history = ChatHistory(home / "history.sqlite")
    if beside != "alone":
        reader(history.path)
    doomed, kept = history.create(CANARY.words), history.create()
    history.append(kept, [asked(OTHER), told(OTHER)])
    history.append(doomed, [asked(CANARY), told(CANARY)])
    history.append(doomed, [told(CANARY)], keep=1)  # another version
    assert CANARY.below(home)
    history.delete(doomed)
    assert CANARY.below(home) == {}
    assert OTHER.below(home) and len(history.messages(kept)) == 2


@pytest.mark.parametrize("beside", ["alone", "another program has the file open"])
@pytest.mark.parametrize("how", ["replaced", "withdrawn"])
def test_a_version_that_is_gone(home: Path, reader: Any, beside: str, how: str) -> None:
    history = ChatHistory(home / "history.sqlite")
    if beside != "alone":
        reader(history.path)
    name = history.create("a title")
    history.append(name, [asked(OTHER), told(OTHER)])
    if how == "replaced":
        number = history.append(name, [asked(CANARY)])
        assert number is not None
        history.replace(name, number, asked(OTHER))
    else:
        number = history.append(name, [told(CANARY)], keep=1)
        assert number is not None and CANARY.below(home)
        history.withdraw(name, number)
    assert CANARY.below(home) == {} and OTHER.below(home)


def correction(canary: Canary) -> Correction:
    content = [{"type": "image"}, {"type": "text", "text": f"[refer] where is {canary.words}?"}]
    boxes = (CorrectedBox(canary.words[:30], Box(0.1, 0.2, 0.5, 0.6)),)
    return Correction(
        messages=({"role": "user", "content": content},),
        rejected=canary.words,
        chosen=f"it is {canary.words}",
        boxes=boxes,
        consent=True,
        remember=True,
        model=canary.words,
        parameters={"stop": [canary.words]},
    )


@pytest.fixture(scope="module")
def seen(tiny_checkpoint: Path) -> dict[int, np.ndarray]:
    """What a tower makes of each canary."""
    with Engine.load(tiny_checkpoint, dtype="int8", device="cpu") as engine:
        return {canary.seed: normalised(engine.vision_features(canary.image)) for canary in (CANARY, OTHER)}


@pytest.fixture
def taught(seen: dict[int, np.ndarray]) -> Canary:
    """The canary, to be known by its tower's numbers as well."""
    half = seen[CANARY.seed].astype("<f2").tobytes()
    return Canary(CANARY.seed, {"features": half[len(half) // 2 :][:40]})


def learnt(registry: Registry, seed: int, record: str, canary: Canary) -> str:
    """An adapter with a report and the leftovers of a training, as far as they tell of a correction."""
    place = built(registry.directory / "adapters" / f".built{seed}", seed)
    (place / "training.json").write_text(json.dumps({"captions": [canary.words], "learnt": [record]}))
    revision = registry.register(place, base="base", data=f"data{seed}", records=[record]).id
    report = registry.gate_directory(revision)
    report.mkdir(parents=True)
    (report / "gate.html").write_text(f"<img src='{canary.attachment.data_uri}'>{canary.words}")
    registry.gated(revision, promotable=True, summary={"target": 1.0}, report=report / "gate.html")
    work = registry.directory / "adapters" / ".new.work"
    work.mkdir(exist_ok=True)
    (work / "captions.json").write_text(json.dumps({"1": canary.words}))
    return revision


@pytest.mark.parametrize("beside", ["alone", "another program has the file open"])
def test_a_forgotten_correction(
    home: Path, reader: Any, beside: str, taught: Canary, seen: dict[int, np.ndarray]
) -> None:
    store, registry = CorrectionStore(home / "refine"), Registry(home / "refine")
    if beside != "alone":
        reader(store.database.path)
    concepts = ConceptStore(store.directory)
    kept, doomed = store.add(correction(OTHER), OTHER.file), store.add(correction(CANARY), CANARY.file)
    for record, canary in ((kept, OTHER), (doomed, CANARY)):
        concepts.keep_features(record.image, "tower", seen[canary.seed])
        learnt(registry, canary.seed, record.id, canary)
    found = set().union(*taught.below(home).values())
    assert {"word 0", "features", "a picture of it", "hash of its bytes", "hash of its pixels"} <= found
    assert CorrectionMemory(store).recall(CANARY.attachment, f"[refer] where is {CANARY.words}?")
    assert forget(store, registry, doomed.id) is None
    assert taught.below(home) == {}
    assert doomed.id in store.forgotten()  # what is left of it: its number, and when
    assert OTHER.below(home) and [one.id for one in store.list()] == [kept.id]
    assert CorrectionMemory(store).recall(CANARY.attachment, f"[refer] where is {CANARY.words}?") is None


def over_http(concepts: ConceptStore, path: str) -> None:
    app = FastAPI()
    app.include_router(concept_routes(SimpleNamespace(store=concepts), LIMITS))  # type: ignore[arg-type]

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://owner") as client:
            return await client.delete(path)

    assert asyncio.run(ask()).json()["deleted"] == 1


def in_the_page(concepts: ConceptStore) -> Session:
    settings = Settings("", history=concepts.directory / "history.sqlite", corrections=concepts.directory)
    return Session(settings, Preferences())


FORGETTING: dict[str, Callable[[ConceptStore, str, str], object]] = {
    "in the terminal": lambda concepts, name, _: forgotten(concepts, name),
    "in the page": lambda concepts, name, _: in_the_page(concepts).forget_concept(name),
    "its example in the page": lambda concepts, _, id: in_the_page(concepts).forget_example(id),
    "over HTTP": lambda concepts, name, _: over_http(concepts, f"/v1/concepts/{name}"),
    "its example over HTTP": lambda concepts, name, id: over_http(concepts, f"/v1/concepts/{name}/examples/{id}"),
}


@pytest.mark.parametrize("how", FORGETTING)
def test_a_forgotten_concept(home: Path, reader: Any, how: str, taught: Canary, seen: dict[int, np.ndarray]) -> None:
    registry, concepts = Registry(home / "refine"), ConceptStore(home / "refine")
    reader(concepts.database.path)
    name, shown = CANARY.words.split()[0], None
    for canary, called in ((OTHER, "Rex"), (CANARY, "the bracket")):
        shown = concepts.show(called, canary.attachment, [Box(0.1, 0.1, 0.5, 0.5)])
        concepts.keep_features(shown.image, "tower", seen[canary.seed])
        learnt(registry, canary.seed, shown.id, canary)
    concepts.rename("the bracket", name)
    assert shown is not None
    assert {"word 0", "features", "a picture of it"} <= set().union(*taught.below(home).values())
    FORGETTING[how](concepts, name, shown.id)
    assert taught.below(home) == {} and registry.holding([shown.id]) == []
    assert OTHER.below(home) and [one.name for one in concepts.list()] == ["Rex"]


def test_a_reader_in_the_middle_of_its_work_is_waited_for(home: Path, reader: Any) -> None:
    """It still sees what was there, and the next to close the file empties its log."""
    store = CorrectionStore(home / "refine")
    doomed = store.add(correction(CANARY), CANARY.file)
    connection = reader(store.database.path)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM images").fetchall()
    store.forget(doomed.id)
    connection.execute("COMMIT")
    connection.close()
    store.count()
    assert CANARY.below(home) == {}
