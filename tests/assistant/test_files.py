"""Files and directories that appear whole or not at all, whatever happens to the writer."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fourfold.assistant.files import building, disk_error, replacing, write_bytes, write_text


def test_a_file_and_its_directory_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "grün")
    write_bytes(tmp_path / "new" / "a.txt", b"second")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"second"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_library_writes_to_a_name_of_the_same_suffix(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.png") as part:
        assert part.suffix == ".png" and part.parent == tmp_path
        part.write_text("image")
        assert not (tmp_path / "a.png").exists()
    assert (tmp_path / "a.png").read_text() == "image"


def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        write_text(tmp_path / "file" / "below", "x")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_text(tmp_path / "taken", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_a_directory_appears_at_the_end_and_everybody_may_read_it(tmp_path: Path) -> None:
    target = tmp_path / "models" / "one"
    with building(target) as part:
        (part / "weights").touch(mode=0o600)
        (part / "sub").mkdir()
        assert not target.exists()
    assert target.stat().st_mode & 0o777 == 0o755
    assert (target / "weights").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in target.parent.iterdir()] == ["one"]


def test_a_directory_gives_way_only_where_that_is_wanted(tmp_path: Path) -> None:
    target = tmp_path / "one"
    for text in ("old", "new"):
        with building(target, replace=True) as part:
            (part / text).touch()
    with pytest.raises(OSError), building(target) as part:
        (part / "third").touch()
    with pytest.raises(ValueError), building(target, replace=True) as part:
        raise ValueError
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_errors_of_a_disk_are_sentences_and_others_are_not() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/state.pt")
    said = disk_error(full)
    assert said is not None and said.startswith("/disk/state.pt cannot be written (no space left on device); ")
    assert "make room" in said and "another place" in (disk_error(OSError(errno.EROFS, "x")) or "")
    assert disk_error(FileNotFoundError(errno.ENOENT, "x", "a.json")) is None


def test_what_a_library_says_of_a_full_disk_is_the_disks_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has a RuntimeError of positions, safetensors one of its own."""
    with pytest.raises(RuntimeError), replacing(tmp_path / "state.pt"):
        raise RuntimeError("unexpected pos 640 vs 534")
    real = os.statvfs(tmp_path)
    full = SimpleNamespace(f_flag=real.f_flag, f_frsize=4096, f_bavail=0)
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    for made in (replacing(tmp_path / "state.pt"), building(tmp_path / "bridge")):
        with pytest.raises(OSError) as caught, made:
            raise RuntimeError("unexpected pos 640 vs 534")
        assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_goes_with_the_next_write_and_what_another_writes_stays(tmp_path: Path) -> None:
    begin = """
import os, sys
from pathlib import Path
from fourfold.assistant.files import building, replacing
with replacing(Path(sys.argv[1]) / "a.txt") as file, building(Path(sys.argv[1]) / "b", replace=True) as directory:
    file.write_text("half")
    (directory / "half").touch()
    print(flush=True)
    sys.stdin.read()
"""
    processes = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", begin, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline()
        processes.append(process)
    killed, alive = processes
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    parts = set(tmp_path.iterdir())
    assert len(parts) == 4
    for part in parts:
        os.utime(part, (1, 1))
    write_text(tmp_path / "a.txt", "whole")
    with building(tmp_path / "b", replace=True) as part:
        (part / "whole").touch()
    left = set(tmp_path.iterdir()) - {tmp_path / "a.txt", tmp_path / "b"}
    assert len(left) == 2 and left < parts  # of the one that writes still
    alive.communicate()
    assert alive.returncode == 0
    assert (tmp_path / "a.txt").read_text() == "half" and (tmp_path / "b" / "half").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b"]
