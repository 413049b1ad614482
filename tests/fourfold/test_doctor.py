"""What the doctor finds, on machines that are made to lack something."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fourfold.assistant import machine
from fourfold.assistant.checkpoints import resolve
from fourfold.assistant.checkpoints.weights import IMAGE_TOWER, LANGUAGE_MODEL
from fourfold.assistant.extras import extras
from fourfold.cli import doctor
from fourfold.cli.doctor import Finding, Status, examine

app = typer.Typer()
app.command()(doctor.doctor)


@pytest.fixture(autouse=True)
def fresh_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, a complete bridge, no GPU, a quiet machine with memory to spare."""
    bridge = tmp_path / "bridge"
    bridge.mkdir()
    for name in resolve.BRIDGE_FILES:
        (bridge / name).write_text("{}")
    monkeypatch.setattr(resolve, "BRIDGE", bridge)
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FOURFOLD_OFFLINE", raising=False)
    monkeypatch.setattr(machine, "gpus", list)
    monkeypatch.setattr(doctor, "_WATCHED", 0.0)
    monkeypatch.setattr(machine, "free_cores", lambda *readings: 100.0)
    monkeypatch.setattr(machine, "memory", lambda: (8_000_000_000, 6_000_000_000))


def finding(name: str, network: bool = False) -> Finding:
    return next(found for found in examine(network) if found.name == name)


def test_a_fresh_machine_is_ready_and_says_what_the_first_start_downloads() -> None:
    result = CliRunner().invoke(app, ["--json"])
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert said["ready"] is True
    assert said["engines"]["local"] is True
    assert {found["status"] for found in said["findings"]} <= set(Status)
    assert "171 MB" in finding("weights").detail


def test_for_people_every_finding_is_a_line() -> None:
    result = CliRunner().invoke(app, [])
    for found in examine():
        assert f" {found.name}" in result.stdout
        assert found.mend is None or found.mend in result.stdout
    assert "fourfold chat" in result.stdout


def test_it_is_quick_because_it_imports_neither_torch_nor_transformers() -> None:
    code = "import sys; from fourfold.cli.doctor import examine; examine()\n"
    code += "print({'torch', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_network_is_asked_only_on_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "network" not in [found.name for found in examine()]
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert finding("network", network=True).status is Status.NOTE


def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the right size, which are not read."""
    for pinned in (IMAGE_TOWER, LANGUAGE_MODEL):
        pinned.path.parent.mkdir(parents=True, exist_ok=True)
        with pinned.path.open("wb") as file:
            file.truncate(pinned.bytes)


def test_weights_downloaded_then_assembled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _cache(tmp_path, monkeypatch)
    monkeypatch.setenv("FOURFOLD_OFFLINE", "1")
    assert finding("weights").status is Status.OK
    assert "assembles" in finding("weights").detail
    directory = resolve.assembled_path("fourfold-mini")
    directory.mkdir(parents=True)
    assert str(directory) in finding("weights").detail


def test_offline_without_weights_cannot_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOURFOLD_OFFLINE", "1")
    assert finding("weights").status is Status.MISSING
    assert finding("local").status is Status.MISSING
    result = CliRunner().invoke(app, ["--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ready"] is False
    assert "FOURFOLD_OFFLINE" in CliRunner().invoke(app, []).stdout


def test_a_bridge_that_is_not_there_is_named() -> None:
    (resolve.BRIDGE / "projector.safetensors").unlink()
    assert finding("weights").status is Status.MISSING
    assert "projector.safetensors" in finding("weights").detail


def test_half_the_weights_are_half_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _cache(tmp_path, monkeypatch)
    LANGUAGE_MODEL.path.unlink()
    assert "93 MB" in finding("weights").detail


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Versions that the test wants to be installed; None for a package that is not."""
    wanted: dict[str, str | None] = {}
    real = importlib.metadata.version

    def version(name: str) -> str:
        found = wanted[name] if name in wanted else real(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    return wanted


def test_wrong_and_missing_packages_are_named_with_the_command(installed: dict[str, str | None]) -> None:
    installed |= {"transformers": "6.0.0", "gguf": None, "torch": "2.13.0+cpu"}
    found = finding("packages")
    assert found.status is Status.MISSING
    assert "(6.0.0)" in found.detail
    assert "not installed" in found.detail
    assert found.mend is not None
    assert "-m pip install" in found.mend
    assert "'transformers<6,>=5.16.1'" in found.mend
    assert "gguf" in found.mend
    assert "torch" not in found.mend, "a local version such as 2.13.0+cpu meets >=2.13"


@pytest.mark.parametrize(
    ("package", "name"),
    [("bitsandbytes", "4bit"), ("rapidocr", "ocr"), ("langchain", "tools"), ("fastapi", "serve"), ("fastapi", "ui")],
)
def test_what_is_optional_is_a_note_with_the_command(installed: dict[str, str | None], package: str, name: str) -> None:
    installed[package] = None
    assert finding(name).status is Status.NOTE
    assert "pip install" in (finding(name).mend or "")


def test_every_extra_has_a_finding() -> None:
    named = {found.name for found in examine()}
    assert named | {"bitsandbytes", "all", "test"} >= set(extras())


def test_no_pip_and_no_weights(installed: dict[str, str | None]) -> None:
    installed["pip"] = None
    assert finding("weights").status is Status.MISSING
    assert "ensurepip" in (finding("weights").mend or "")


def test_vllm(installed: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    installed["vllm"] = None
    assert finding("vllm").status is Status.NOTE
    monkeypatch.setattr(machine, "gpus", lambda: [machine.Gpu("Card", 2**30)])
    assert "fourfold[vllm]" in (finding("vllm").mend or "")
    for version in ("0.32.0", "0.32.0+cpu"):
        installed["vllm"] = version
        assert finding("vllm").status is Status.OK
    installed["vllm"] = "0.40.0"
    assert finding("vllm").status is Status.NOTE


def test_a_full_disk_cannot_take_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=10_000_000))
    assert finding("disk").status is Status.MISSING
    resolve.assembled_path("fourfold-mini").mkdir(parents=True)
    assert finding("disk").status is Status.OK, "what is there needs no more room"


def test_little_memory_and_a_busy_machine_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: (2_000_000_000, 1_000_000_000))
    monkeypatch.setattr(machine, "free_cores", lambda *readings: 0.0)
    assert finding("memory").status is Status.NOTE
    assert finding("processor").status is Status.NOTE


def test_low_bits_are_not_advised_to_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: (2_000_000_000, 1_000_000_000))
    assert "4bit" not in (finding("memory").mend or "")
    assert "seven times" in finding("4bit").detail
    monkeypatch.setattr(machine, "gpus", lambda: [machine.Gpu("Card", 2**30)])
    assert "seven times" not in finding("4bit").detail


def test_the_weights_of_tools_are_listed_with_their_licences_and_size() -> None:
    detect, segment = finding("detect"), finding("segment")
    assert "75 MB to download" in detect.detail
    assert "Apache-2.0" in detect.detail
    assert "states none, so it is downloaded by each user and never passed on" in detect.detail
    assert "38 MB to download" in segment.detail
    assert segment.status is Status.OK


class TestMachine:
    """Facts read from tools and files of the system."""

    @pytest.fixture(autouse=True)
    def real_machine(self, monkeypatch: pytest.MonkeyPatch, fresh_machine: None) -> None:
        monkeypatch.undo()

    def test_cards_of_nvidia(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559'\necho 'Odd, Card, 100'\necho nonsense\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        assert machine.gpus() == [
            machine.Gpu("NVIDIA H100 80GB HBM3", 81559 * 2**20),
            machine.Gpu("Odd, Card", 100 * 2**20),
        ]
        tool.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
        assert machine.gpus() == []

    def test_a_card_that_torch_cannot_use_is_a_note(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "gpus", lambda: [machine.Gpu("Card", 80 * 2**30)])
        monkeypatch.setattr(doctor, "torch_cuda", lambda: None)
        assert finding("gpu").status is Status.NOTE
        monkeypatch.setattr(doctor, "torch_cuda", lambda: "12.8")
        assert finding("gpu").status is Status.OK
        assert "80 GiB" in finding("gpu").detail

    def test_cuda_of_torch_agrees_with_torch(self) -> None:
        import torch

        assert doctor.torch_cuda() == torch.version.cuda
