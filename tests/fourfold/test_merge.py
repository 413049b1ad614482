"""`fourfold merge` at the command line."""

import subprocess
import sys
from pathlib import Path

import typer
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner

from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.cli.merge import merge

app = typer.Typer()
app.command()(merge)


def test_it_writes_a_checkpoint_and_says_what_to_do_next(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = MiniGPTv2ForConditionalGeneration.from_pretrained(tiny_checkpoint)
    config = LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(tmp_path / "taught")
    out = tmp_path / "merged"
    run = CliRunner().invoke(app, [str(tmp_path / "taught"), "--model", str(tiny_checkpoint), "--out", str(out)])
    assert run.exit_code == 0, run.output
    assert f"fourfold chat --model {out}" in run.stdout
    assert (out / "model.safetensors").is_file() and (out / "modeling_minigpt_v2.py").is_file()


def test_what_is_wrong_is_told_before_torch_is_imported(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "taken" / "sub").mkdir(parents=True)
    code = "import sys; from fourfold.cli.main import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    words = ["merge", str(tmp_path), "--model", str(tiny_checkpoint), "--out"]
    for out, said in (("taken", "exists already"), ("new", "is no LoRA adapter")):
        run = subprocess.run(
            [sys.executable, "-c", code, *words, str(tmp_path / out)], capture_output=True, text=True, check=False
        )
        assert (run.returncode, run.stdout) == (2, "False\n") and said in run.stderr
