"""`fourfold convert` at the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fourfold.cli.convert import convert
from fourfold.prompts.errors import UserError
from tests.assistant.checkpoints import release_files as tiny
from tests.assistant.checkpoints.release_files import Release, make_release

app = typer.Typer()
app.command()(convert)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return make_release(tmp_path_factory.mktemp("release")).write()


def arguments(release: Release, out: Path, *more: str) -> list[str]:
    paths = [text for name, path in release.paths().items() for text in (f"--{name}", str(path))]
    return [*paths, "--out", str(out), "--image-size", str(tiny.IMAGE_SIZE), *more]


def test_json_is_one_object_on_stdout(release: Release, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, arguments(release, tmp_path / "out", "--json", "--keep-adapter"))
    result = json.loads(run.stdout)
    assert result["directory"] == str(tmp_path / "out") and result["adapter"] == str(tmp_path / "out" / "adapter")
    assert result["stage"]["name"] == "stage 3" and result["bytes"] == 2 * result["parameters"]
    assert "sha256 of eva_vit_g.pth" in run.stderr


def test_summary_says_what_to_expect_and_to_do_next(release: Release, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, arguments(release, tmp_path / "out"))
    assert "LoRA of rank 8, scale 2, added to the weights" in run.stdout
    assert "which of the public checkpoints: stage 3, since the file is called checkpoint_stage3.pth" in run.stdout
    assert "okvqa 55.9" in run.stdout
    assert run.stdout.rstrip().endswith(f"next: fourfold chat --model {tmp_path / 'out'}")


def test_a_mismatch_is_the_user_s_to_mend(release: Release, tmp_path: Path) -> None:
    swapped = Release(release.vision, release.vision, release.llama, release.llama_config, tmp_path / "swapped").write()
    run = CliRunner().invoke(app, arguments(swapped, tmp_path / "out"))
    assert isinstance(run.exception, UserError)
    assert "goes to --vision" in str(run.exception)
    assert not (tmp_path / "out").exists()


def test_help_needs_no_torch() -> None:
    code = "import sys, fourfold.cli.convert; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
