"""The store under the conditions that lose records elsewhere: crashes, full disks, writers beside each other."""

import io
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from fourfold.assistant.database import Database
from fourfold.assistant.grounding import Box
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.record import CorrectedBox
from fourfold.assistant.refine.store import MIGRATIONS, CorrectionStore, default_directory
from fourfold.prompts.errors import UserError
from tests.assistant.refine.corrections import correction, encoded, picture
from tests.assistant.threads import run_in_threads

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    return CorrectionStore(tmp_path / "data" / "refine")


def test_a_correction_survives_a_restart(store: CorrectionStore) -> None:
    boxes = (CorrectedBox("thing", Box(0.1, 0.2, 0.3, 0.4)), CorrectedBox(None, Box(0, 0, 1, 1)))
    data = encoded(picture())
    said = [
        store.add(correction(boxes=boxes, model="m", adapter="a", parameters={"seed": 1}), data),
        store.add(correction(1, id="mine", created=12.0, consent=False), encoded(picture(1))),
        store.add(correction(2, verdict="up", chosen=None), data),
    ]
    assert (said[1].id, said[1].created) == ("mine", 12.0)
    assert len({record.id for record in said}) == 3
    assert all(record.created > 0 for record in said)
    again = CorrectionStore(store.directory)
    assert again.list() == said
    assert [again.get(record.id) for record in said] == said
    assert again.image(said[0].image).content == data
    assert again.list(verdict="up") == said[2:]
    assert again.list(consented=True) == [said[0], said[2]]
    assert again.list(verdict="down", consented=False) == [said[1]]
    assert (again.count(), again.count(consented=True), again.count(verdict="down")) == (3, 2, 2)


def test_an_image_is_stored_once(store: CorrectionStore) -> None:
    for number in range(3):
        store.add(correction(number), encoded(picture()))
    with sqlite3.connect(store.directory / "corrections.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM images").fetchone() == (1,)


def test_a_record_cannot_be_changed_from_outside(store: CorrectionStore) -> None:
    parameters = {"stop": ["x"]}
    added = store.add(correction(parameters=parameters), encoded(picture()))
    parameters["stop"].append("y")
    assert added.parameters == store.get(added.id).parameters == {"stop": ["x"]}


def test_what_is_refused_leaves_nothing(store: CorrectionStore) -> None:
    for record, data, message in (
        (correction(chosen="red"), encoded(picture()), "nothing is corrected"),
        (correction(), b"no image", "not an image"),
        (correction(), encoded(picture())[:300], "damaged or cut short"),
        (correction(image="0" * 64), encoded(picture()), "not the image of this record"),
    ):
        with pytest.raises(UserError, match=message):
            store.add(record, data)
    known = store.add(correction(), encoded(picture()))
    with pytest.raises(UserError, match="already"):
        store.add(known, encoded(picture()))
    good = store.prepare(correction(1), encoded(picture(1)))
    with pytest.raises(UserError, match="already"):
        store.add_all([good, store.prepare(known, encoded(picture()))])
    assert store.list() == [known]
    with pytest.raises(UserError, match="no image"):
        store.image(good.correction.image)
    with pytest.raises(UserError, match="no correction 'x'"):
        store.get("x")
    with pytest.raises(UserError, match="no correction 'x'"):
        store.forget("x")


def every_byte(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.iterdir())


def test_forgetting_leaves_no_trace_but_id_and_time(store: CorrectionStore) -> None:
    kept = store.add(correction(0), encoded(picture(0)))
    shared = store.add(correction(1, chosen="SECRETWORD one"), encoded(picture(0)))
    secret = encoded(picture(7, 200))
    alone = store.add(correction(2, chosen="SECRETWORD two " * 500, rejected="SECRETWORD"), secret)
    chunks = [secret[i : i + 64] for i in range(100, len(secret) - 64, 5000)]
    assert all(chunk in every_byte(store.directory) for chunk in chunks)
    store.forget(shared.id)
    store.forget(alone.id)
    left = every_byte(store.directory)
    assert b"SECRETWORD" not in left
    assert alone.image.encode() not in left
    assert not any(chunk in left for chunk in chunks)
    assert store.list() == [kept]
    assert store.image(kept.image).content == encoded(picture(0))
    assert list(store.forgotten()) == [shared.id, alone.id]
    for call in (store.get, store.forget):
        with pytest.raises(UserError, match=r"was forgotten on 2\d\d\d-"):
            call(alone.id)
    with pytest.raises(UserError, match="was forgotten"):  # an old export does not bring it back
        store.add(alone, secret)
    store.forget(kept.id)
    with pytest.raises(UserError, match="no image"):
        store.image(kept.image)


def test_forgetting_while_another_process_reads(store: CorrectionStore) -> None:
    added = store.add(correction(chosen="SECRETWORD"), encoded(picture()))
    reader = sqlite3.connect(store.directory / "corrections.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM corrections").fetchall()
    store.forget(added.id)
    assert store.list() == []
    reader.execute("COMMIT")
    reader.close()
    assert store.count() == 0  # the last connection to close empties the log
    assert b"SECRETWORD" not in every_byte(store.directory)


def test_benchmark_images_are_known_after_saving_them_again(store: CorrectionStore) -> None:
    image = picture(5)
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    jpeg = encoded(image, "JPEG", exif=exif)
    stripped = encoded(image, "JPEG")
    assert jpeg != stripped
    before = store.add(correction(0), jpeg)
    assert store.exclude([Attachment(jpeg).hashes, Attachment(encoded(picture(6))).hashes], "okvqa val") == 2
    assert store.exclude([Attachment(jpeg).hashes], "again") == 0
    with Image.open(io.BytesIO(jpeg)) as decoded:
        saved_again = encoded(decoded)
        turned = encoded(ImageOps.exif_transpose(decoded))
    for data in (jpeg, stripped, saved_again, turned):
        with pytest.raises(UserError, match=r"image of a benchmark \(okvqa val\)"):
            store.add(correction(1), data)
    assert store.list(excluded=True) == [before]
    other = store.add(correction(2), encoded(picture(7)))
    assert store.list() == [before, other]
    assert store.list(excluded=True) == [before]
    assert store.list(excluded=False) == [other]
    # Decided by the store when it writes, not by what was true when the import began.
    candidate = store.prepare(correction(3), encoded(picture(8)))
    store.exclude([Attachment(encoded(picture(8))).hashes], "late")
    with pytest.raises(UserError, match="late"):
        store.add_all([candidate])


def test_an_image_file_that_changes_during_an_import_is_refused(store: CorrectionStore, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(encoded(picture(0)))
    candidate = store.prepare(correction(), file)
    file.write_bytes(encoded(picture(1)))
    with pytest.raises(UserError, match="has changed"):
        store.add_all([candidate])
    assert store.count() == 0


def test_threads_write_beside_each_other(store: CorrectionStore) -> None:
    def write(number: int) -> None:
        for turn in range(10):
            batch = [store.prepare(correction(number, chosen=f"{turn}"), encoded(picture(turn))) for _ in "ab"]
            store.add_all(batch)

    run_in_threads(write)
    records = store.list()
    assert len(records) == 120
    # Nobody came between the two of a batch.
    assert all(a.messages == b.messages for a, b in zip(records[::2], records[1::2], strict=True))


WRITER = """
import sys
from fourfold.assistant.refine.store import CorrectionStore
from tests.assistant.refine.corrections import correction, encoded, picture
store = CorrectionStore(sys.argv[1])
side, count, name = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
images = [encoded(picture(number, side), compress_level=0) for number in range(min(count, 20))]
print("ready", flush=True)
for number in range(count):
    store.add(correction(number, id=f"{name}-{number}"), images[number % len(images)])
    print(number, flush=True)
"""


def writer(directory: Path, side: int, count: int, name: str, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(directory), str(side), str(count), name]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]


def check_whole(directory: Path, acknowledged: int) -> None:
    """Every acknowledged record is there with its image, nothing is there by halves, and the file is sound."""
    store = CorrectionStore(directory)
    records = store.list()
    assert len(records) in (acknowledged, acknowledged + 1)
    for record in records:
        assert store.image(record.image).sha256 == record.image
    with sqlite3.connect(directory / "corrections.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        orphans = "SELECT count(*) FROM images WHERE sha256 NOT IN (SELECT image FROM corrections)"
        assert connection.execute(orphans).fetchone() == (0,)


def test_processes_open_and_write_beside_each_other(tmp_path: Path) -> None:
    writers = [writer(tmp_path / "refine", 40, 8, f"w{number}") for number in range(3)]
    for process in writers:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    ids = sorted(record.id for record in CorrectionStore(tmp_path / "refine").list())
    assert ids == sorted(f"w{w}-{n}" for w in range(3) for n in range(8))


def size_of(file: Path) -> int:
    """Bytes; 0 where there is no such file (SQLite removes its log between two connections)."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("before_the_kill", [0, 2, 5])
def test_kill_9_in_the_middle_of_a_write(tmp_path: Path, before_the_kill: int) -> None:
    process = writer(tmp_path, 900, 9, "doomed")  # 2.4 MB a record, so that most of its time goes into writing
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    acknowledged = 0
    for _ in range(before_the_kill):
        process.stdout.readline()
        acknowledged += 1
    log = tmp_path / "corrections.sqlite-wal"
    size = size_of(log)
    while process.poll() is None and size_of(log) == size:
        pass  # wait until the next record is being written
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait()
    process.stderr.close()
    assert process.returncode == -signal.SIGKILL
    check_whole(tmp_path, acknowledged + len(rest))
    store = CorrectionStore(tmp_path)
    there = store.count()
    store.add(correction(id="after"), encoded(picture(99)))
    check_whole(tmp_path, there + 1)


def test_a_full_disk_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    """The kernel refuses to let the file grow beyond a limit, as a full disk would."""
    import resource

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    process = writer(tmp_path, 300, 20, "big", preexec_fn=limit)
    out, errors = process.communicate(timeout=240)
    acknowledged = len(out.split()) - 1
    assert process.returncode == 1
    assert "could not be written" in errors
    assert 1 <= acknowledged < 19
    check_whole(tmp_path, acknowledged)
    store = CorrectionStore(tmp_path)
    assert store.count() == acknowledged
    store.add(correction(id="room-again"), encoded(picture(50)))
    store.forget("room-again")
    check_whole(tmp_path, acknowledged)


def test_a_file_of_an_older_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    data = encoded(picture())
    for version in range(1, len(MIGRATIONS) + 1):
        directory = tmp_path / str(version)
        directory.mkdir()
        Database(directory / "corrections.sqlite", MIGRATIONS[:version], "old store")
        with sqlite3.connect(directory / "corrections.sqlite") as connection:
            newest = CorrectionStore(tmp_path / f"new{version}")
            newest.add(correction(id="old"), data)
            newest.add(correction(id="unconsented", consent=False), data)
            connection.execute("ATTACH ? AS new", (str(newest.directory / "corrections.sqlite"),))
            for table in ("images", "marks", "corrections"):
                columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA main.table_info({table})"))
                connection.execute(f"INSERT INTO main.{table} SELECT {columns} FROM new.{table}")
            # What was written then does not say whether it is remembered: what had consent was.
            connection.execute("UPDATE main.corrections SET fields = json_remove(fields, '$.remember')")
            if version == 2:  # when similar images were looked for
                connection.execute("INSERT INTO vectors SELECT sha256, 'tower', x'00' FROM images")
        upgraded = CorrectionStore(directory)
        assert [record.id for record in upgraded.list()] == ["old", "unconsented"]
        assert [record.id for record in upgraded.list(remembered=True)] == (
            ["old"] if version < len(MIGRATIONS) else ["old", "unconsented"]
        )
        assert [record.id for record in upgraded.list() if record.remember] == ["old"]
        upgraded.add(correction(id="young"), data)
        upgraded.forget("old")
        assert upgraded.image(upgraded.get("young").image).content == data


def test_directories_that_hold_no_store_are_left_alone(tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    newer.mkdir()
    with sqlite3.connect(newer / "corrections.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="newer version"):
        CorrectionStore(newer)
    other = tmp_path / "other"
    other.mkdir()
    (other / "corrections.sqlite").write_text("not a database " * 100)
    with pytest.raises(UserError, match="not a correction store"):
        CorrectionStore(other)
    assert (other / "corrections.sqlite").read_text() == "not a database " * 100
    with pytest.raises(UserError, match="cannot be opened"):
        CorrectionStore(other / "corrections.sqlite")


def test_only_the_owner_may_read(store: CorrectionStore) -> None:
    store.add(correction(), encoded(picture()))
    holder = sqlite3.connect(store.directory / "corrections.sqlite")
    holder.execute("SELECT * FROM corrections").fetchall()
    store.add(correction(1), encoded(picture()))
    for file in [store.directory, *store.directory.iterdir()]:
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    holder.close()


def test_the_default_directory_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "fourfold" / "refine"
