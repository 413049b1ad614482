"""What a clean clone is built into, and what it finds when installed: one name beside other people's code."""

import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("fourfold", "assistant", "eval", "prompts", "serving", "ui")
SHIPPED = {".py", ".jinja", ".json", ".yaml", ".safetensors", ".css", ".js", ".jpg", ".png", ".txt"}
REPOSITORY_ONLY = "serving/vllm/env/"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git has or would take, links as links."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a repository to know which files belong to it")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    clone = tmp_path_factory.mktemp("clone")
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, clone / name
        if source.is_symlink() or source.exists():  # else it is deleted and not yet committed
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    return clone


def build(source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out)]
    done = subprocess.run([*command, "."], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = out.glob("*.whl")
    return wheel


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(clone, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_one_name_and_every_file_of_the_rooms(clone: Path, wheel: Path) -> None:
    expected = set()
    for room in ROOMS:
        for path in (clone / room).rglob("*"):
            name = path.relative_to(clone).as_posix()
            if path.is_file() and path.suffix in SHIPPED and not name.startswith(REPOSITORY_ONLY):
                expected.add(name if room == "fourfold" else f"fourfold/{name}")
    assert contents(wheel) == expected


def test_a_wheel_of_the_source_distribution_is_the_same(clone: Path, wheel: Path, tmp_path: Path) -> None:
    code = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, check=True)
    [archive] = (clone / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    assert contents(build(source, tmp_path / "wheel")) == contents(wheel)


# In a folder of somebody who has files of these names


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder whose files would end any program that imports one of them."""
    for name in ROOMS[1:]:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('imported {name}.py of the working folder')\n")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ["fourfold"],
        ["-m", "fourfold"],
        ["-m", "fourfold.cli"],
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "fourfold.cli"],
    ],
    ids=" ".join,
)
def test_the_command_works_beside_files_of_other_people(crowded: Path, command: list[str]) -> None:
    program = Path(sys.executable).with_name(command[0]) if command[0] == "fourfold" else sys.executable
    words = [str(program), *command[command[0] == "fourfold" :], "train", "--help"]
    done = subprocess.run(words, cwd=crowded, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Teach a bridge" in done.stdout


def test_every_room_is_imported_beside_files_of_other_people(crowded: Path) -> None:
    rooms = "fourfold.cli.main, fourfold.ui.launch, fourfold.serving.api.app, fourfold.eval.log"
    command = [sys.executable, "-c", f"import {rooms}"]  # has the working folder first on its path, as `-m` has
    done = subprocess.run(command, cwd=crowded, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_server_of_the_page_starts_beside_files_of_other_people(
    crowded: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fourfold.ui.state.local_server import LocalServer

    monkeypatch.chdir(crowded)
    server = LocalServer(str(tiny_checkpoint))
    server.start()
    try:
        deadline = time.monotonic() + 60
        while server.state == "starting" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.state == "ready", server.complaint
    finally:
        server.stop()


def test_each_module_is_seen_once() -> None:
    """No room under a name of its own beside `fourfold.`, which would give every class twice."""
    assert not set(ROOMS[1:]) & {name.partition(".")[0] for name in sys.modules}
