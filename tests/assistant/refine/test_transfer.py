"""Import and export: exact round trips, hand-written lines, and lines meant to do harm."""

import base64
import json
import os
import zlib
from pathlib import Path

import pytest

from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.record import CorrectedBox
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.transfer import Imported, export_corrections, import_corrections
from fourfold.prompts.errors import UserError
from tests.assistant.refine.corrections import correction, encoded, picture


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    return CorrectionStore(tmp_path / "store")


def write(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    path = tmp_path / "photos" / "a photo.png"
    path.write_bytes(encoded(picture()))
    return path


def line(**fields: object) -> dict:
    """A hand-written line as the issue shows it."""
    return {
        "image": "photos/a photo.png",
        "messages": [{"role": "user", "content": "what colour is the ball?"}],
        "rejected": "red",
        "chosen": "blue",
        "boxes": None,
        "consent": True,
    } | fields


def test_a_round_trip_is_exact(store: CorrectionStore, tmp_path: Path) -> None:
    boxes = (CorrectedBox("a thing", Box(0.1, 1 / 3, 0.7, 1.0)), CorrectedBox(None, Box(0, 0, 0, 0)))
    jpeg = encoded(picture(2), "JPEG")
    store.add(correction(0, boxes=boxes, parameters={"temperature": 0.1, "stop": ["é"]}, adapter="x"), jpeg)
    store.add(correction(1, chosen="ein Bär 🐻", consent=False, created=0.1 + 0.2), jpeg)
    store.add(correction(2, chosen=None, verdict="up", model="m"), encoded(picture(3)))
    store.add(correction(3, chosen=None, boxes=()), encoded(picture(4), "BMP"))
    talk = (
        {"role": "system", "content": "be brief"},
        *correction().messages,
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "sure?"}]},
    )
    store.add(correction(messages=talk), jpeg)
    out = tmp_path / "out" / "corrections.jsonl"
    assert export_corrections(store, out) == 5
    assert len(list((out.parent / "images").iterdir())) == 3
    other = CorrectionStore(tmp_path / "other")
    assert import_corrections(other, out) == Imported(5, 0, 0)
    assert other.list() == store.list()
    assert [other.image(r.image) for r in other.list()] == [store.image(r.image) for r in store.list()]
    assert import_corrections(other, out) == Imported(0, 5, 0)
    again = tmp_path / "again" / "corrections.jsonl"
    export_corrections(other, again)
    assert again.read_bytes() == out.read_bytes()
    assert {p.name: p.read_bytes() for p in again.parent.glob("images/*")} == {
        p.name: p.read_bytes() for p in out.parent.glob("images/*")
    }


def test_hand_written_lines(store: CorrectionStore, photo: Path, tmp_path: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode(photo.read_bytes()).decode()
    shown = {"type": "text", "text": "what is it?"}
    file = write(
        tmp_path / "mine.jsonl",
        line(),
        "",
        line(image=str(photo), chosen="green"),
        line(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}}, shown]}]),
        line(
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": str(photo)}, shown]}], chosen="a"
        ),
        line(messages=[{"role": "user", "content": [{"type": "image"}, shown]}], chosen="b"),
        line(
            messages=[
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [shown]},
                {"role": "assistant", "content": "a ball"},
                {"role": "user", "content": "its colour?"},
            ]
        ),
        line(chosen=None, boxes=[{"phrase": "ball", "box": [0.1, 0, 1, 1]}, {"box": [0, 0, 0.5, 1]}]),
        {
            "image": "photos/a photo.png",
            "messages": [{"role": "user", "content": "q"}],
            "rejected": "",
            "consent": False,
        },
    )
    assert import_corrections(store, file) == Imported(8, 0, 0)
    records = store.list()
    assert all(record.image == Attachment(photo.read_bytes()).sha256 for record in records)
    assert records[0].messages == (
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what colour is the ball?"}]},
    )
    assert all(record.messages[0] == {"role": "user", "content": [{"type": "image"}, shown]} for record in records[2:5])
    assert [len(record.messages) for record in records] == [1, 1, 1, 1, 1, 4, 1, 1]
    assert records[5].messages[1] == {"role": "user", "content": [{"type": "image"}, shown]}
    assert records[6].boxes == (CorrectedBox("ball", Box(0.1, 0, 1, 1)), CorrectedBox(None, Box(0, 0, 0.5, 1)))
    assert (records[7].chosen, records[7].consent, records[7].verdict) == (None, False, "down")
    assert import_corrections(store, file) == Imported(0, 8, 0)  # a line without id is known by its content
    store.forget(records[0].id)
    assert import_corrections(store, file) == Imported(0, 7, 1)


BAD = [
    ("{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ('{"image": 1' + "0" * 10_000 + "}", "not JSON"),
    ("[1]", "must be a JSON object"),
    ("\x00\x01\x02", "not JSON"),
    (line(image=None), "image must be the path"),
    (line(image=3), "image must be the path"),
    (line(image="missing.png"), "missing.png does not exist"),
    (line(image="../../../../../../etc/passwd"), "passwd is not an image"),
    (line(image="photos"), "photos is a directory"),
    (line(image="/dev/zero"), "is not a regular file"),
    (line(image="a\x00b"), "null byte"),
    (line(image="x" * 5000), "cannot be read"),
    (line(image="large.png"), "97.0 MiB"),
    (line(image="bomb.png"), "pixels"),
    (line(image="cut.png"), "damaged or cut short"),
    (line(image="empty.png"), "is empty"),
    ('{"image": "photos/a photo.png", "boxes": [{"box": [0, 0, NaN, 1]}]}', "NaN is no number"),
    (line(boxes=[{"phrase": None, "box": [0, 0, 2, 1]}]), r"boxes\[0\]\.box: must be"),
    (line(boxes="all"), "boxes: .* list"),
    (line(chosen="x" * 100_000), "chosen: .* at most 20000 characters"),
    (line(rejected=["red"]), "rejected: .* string"),
    (line(messages={}), "messages: .* list"),
    (line(messages=[[]]), r"messages\[0\]"),
    (line(messages=[{"role": "user", "content": None}]), "must be text or a list"),
    (line(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "another image"),
    (line(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "b.png"}}]}]), "another"),
    (
        line(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]),
        "data URI",
    ),
    (line(messages=[{"role": "assistant", "content": "hi"}]), "no message shows the image"),
    (line(consent="yes"), "consent: .* boolean"),
    (line(parameters=[1]), "parameters: must be a mapping"),
    (line(id="../x"), "id: "),
    (line(verdict="up"), "right as it is"),
    (line(score=1), "'score' is no field"),
    (line(), "an earlier line holds the same"),
    (line(chosen="\ud800"), "chosen: .* unicode"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_a_bad_line_is_named_and_nothing_is_imported(
    store: CorrectionStore, photo: Path, tmp_path: Path, bad: object, message: str
) -> None:
    (tmp_path / "large.png").write_bytes(b"\x89PNG")
    os.truncate(tmp_path / "large.png", 97 * 2**20)  # a hole, which takes no room
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:300])
    (tmp_path / "empty.png").write_bytes(b"")
    header = bytearray(photo.read_bytes())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(header)
    kept = store.add(correction(), encoded(picture(9)))
    file = write(tmp_path / "bad.jsonl", line(), "", bad, line(chosen="white"))
    with pytest.raises(UserError, match=message) as refused:
        import_corrections(store, file)
    assert "line 3: " in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert store.list() == [kept]


def test_lines_without_end_and_files_that_are_none(store: CorrectionStore, tmp_path: Path) -> None:
    endless = tmp_path / "endless.jsonl"
    endless.write_bytes(b"x" * 5_000_000)
    with pytest.raises(UserError, match="line 1: longer than 4 MiB"):
        import_corrections(store, endless)
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            import_corrections(store, path)


def test_an_id_that_is_taken_is_refused_unless_the_record_is_the_same(
    store: CorrectionStore, photo: Path, tmp_path: Path
) -> None:
    assert import_corrections(store, write(tmp_path / "a.jsonl", line(id="a"))).added == 1
    with pytest.raises(UserError, match="line 2: the store has another correction with the id 'a'"):
        import_corrections(store, write(tmp_path / "b.jsonl", line(), line(id="a", chosen="white")))
    assert store.count() == 1


def test_benchmark_images_are_refused_by_line(store: CorrectionStore, photo: Path, tmp_path: Path) -> None:
    store.exclude([Attachment(encoded(picture(), "PNG", optimize=True)).hashes], "gqa")
    with pytest.raises(UserError, match=r"line 1: .*image of a benchmark \(gqa\)"):
        import_corrections(store, write(tmp_path / "a.jsonl", line()))


def test_an_export_that_cannot_be_written_says_so(store: CorrectionStore, tmp_path: Path) -> None:
    store.add(correction(), encoded(picture()))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_corrections(store, tmp_path / "file" / "out.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "store"]
