"""What a clean clone is built into, and what it finds when installed: one name beside other people's code."""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from fourfold.assistant.extras import extras, requirements

ROOT = Path(__file__).parents[1]
ROOMS = ("fourfold", "assistant", "eval", "prompts", "serving", "ui")
SHIPPED = {".py", ".jinja", ".json", ".yaml", ".safetensors", ".css", ".js", ".jpg", ".png", ".txt"}
REPOSITORY_ONLY = "serving/vllm/env/"
BESIDE = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "SECURITY.md", "constraints.txt", "pyproject.toml"}
REPRODUCIBLE = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}


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
    done = subprocess.run([*command, "."], cwd=source, capture_output=True, text=True, env=REPRODUCIBLE)
    assert done.returncode == 0, done.stderr
    [wheel] = out.glob("*.whl")
    return wheel


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(clone, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(clone: Path) -> Path:
    code = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, check=True, env=REPRODUCIBLE)
    [archive] = (clone / "dist").glob("*.tar.gz")
    return archive


def shipped(clone: Path) -> set[str]:
    """What the rooms hold that people are to get, by the names it has when installed."""
    names = set()
    for room in ROOMS:
        for path in (clone / room).rglob("*"):
            name = path.relative_to(clone).as_posix()
            if path.is_file() and path.suffix in SHIPPED and not name.startswith(REPOSITORY_ONLY):
                names.add(name if room == "fourfold" else f"fourfold/{name}")
    return names


def test_the_wheel_holds_one_name_and_every_file_of_the_rooms(clone: Path, wheel: Path) -> None:
    assert contents(wheel) == shipped(clone)
    with zipfile.ZipFile(wheel) as archive:
        described = {name.partition(".dist-info/")[2] for name in archive.namelist() if ".dist-info/" in name}
    assert described == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}


def test_the_source_distribution_holds_that_and_what_explains_it(clone: Path, sdist: Path) -> None:
    with tarfile.open(sdist) as packed:
        names = {member.name.partition("/")[2] for member in packed if not member.isdir()}
    written = {name for name in names if name.startswith("fourfold.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - written == shipped(clone) | BESIDE


def test_a_wheel_of_the_source_distribution_is_the_same_to_the_byte(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as packed:
        packed.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    again = build(source, tmp_path / "wheel")
    assert contents(again) == contents(wheel)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()


def test_the_index_would_take_both(wheel: Path, sdist: Path) -> None:
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", str(wheel), str(sdist)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_module_that_is_imported_is_of_a_requirement() -> None:
    """Of the core or an extra; else it works on this machine alone."""
    named = {one.name for extra in ["", *extras()] if extra != "test" for one in requirements(extra)}
    modules = {"opencv-python-headless": "cv2", "pyyaml": "yaml", "pillow": "PIL", "pypdfium2": "pypdfium2"}
    known = {modules.get(name, name.replace("-", "_")) for name in named}
    # Of requirements' own requirements, without which those are not.
    known |= {"huggingface_hub", "tokenizers", "tqdm", "starlette", "anyio", "typing_extensions"}
    known |= {"zipfile_zstd", "compressed_tensors", "vllm_bnb_plugin"}  # of inspect-ai, of llmcompressor, beside vllm
    known |= {*sys.stdlib_module_names, "fourfold"}
    unknown = set()
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported = [node.module or ""]
            else:
                continue
            names = {name.partition(".")[0] for name in imported} - known
            unknown |= {f"{name} in {path.relative_to(ROOT)}" for name in names}
    assert not unknown


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
