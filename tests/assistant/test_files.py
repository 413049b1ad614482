"""Files and directories that appear whole or not at all, whatever happens to the writer."""

from pathlib import Path

import pytest

from fourfold.assistant.files import building, replacing, write_bytes, write_text


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
