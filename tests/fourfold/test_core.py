"""fourfold as it is without any extra: what answers, and what says which extra it needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.extras import extras, requirements

# What the core's own requirements want is there without being asked for.
MODULES = {"opencv-python-headless": "cv2", "pyyaml": None, "protobuf": None, "h11": None}
RECIPE = Path(__file__).parents[2] / "assistant/training/recipes/tiny.yaml"
RUN = """
import contextlib, io, json, sys
blocked, lines = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(blocked))  # None: their import fails
from fourfold.cli.main import main
told = []
for words in lines:
    sys.argv = ["fourfold", *words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    told.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""
REFUSED = {
    ("serve",): "serve",
    ("ui",): "ui",
    ("refine", "train"): "train",
    ("refine", "gate"): "train",
    ("convert", "--checkpoint", "a", "--llama", "b", "--vision", "c", "--out", "d"): "train",
    ("train", "run", "RECIPE"): "train",
    ("eval", "run", "card"): "eval",
    ("tools", "read-text", "PHOTO"): "ocr",
    ("chat", "PHOTO", "what is this?", "--model", "MODEL", "--quantization", "4bit"): "bitsandbytes",
}


def blocked() -> list[str]:
    """Modules of everything that only extras bring."""
    core = {requirement.name for requirement in requirements()}
    names = {requirement.name for extra in extras() if extra != "test" for requirement in requirements(extra)} - core
    modules = [MODULES.get(name, name.replace("-", "_")) for name in sorted(names)]
    return [module for module in modules if module]


@pytest.fixture(scope="module")
def told(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, ...], tuple[int, str, str]]:
    """Exit code, output and complaint of command lines, each in a process where no extra can be imported."""
    folder = tmp_path_factory.mktemp("core")
    Image.new("RGB", (40, 30), "red").save(folder / "photo.png")
    real = {"PHOTO": str(folder / "photo.png"), "MODEL": str(tiny_checkpoint), "RECIPE": str(RECIPE)}
    lines = [*REFUSED, *ANSWERED]
    words = [[real.get(word, word) for word in line] for line in lines]
    command = [sys.executable, "-c", RUN, json.dumps([blocked(), words])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=folder)
    assert done.returncode == 0, done.stderr
    return dict(zip(lines, map(tuple, json.loads(done.stdout.splitlines()[-1])), strict=True))


ANSWERED: list[tuple[str, ...]] = [
    ("chat", "PHOTO", "[vqa] what is this?", "--model", "MODEL", "--json"),
    ("chat", "PHOTO", "the dog", "--task", "refer", "--model", "MODEL", "--draw", "out.png"),
    ("decide", "PHOTO", "--question", "is there a dog?", "--model", "MODEL"),
    ("concepts", "list", "--store", "store"),
    ("refine", "history", "--store", "store"),
    ("doctor", "--json"),
]


@pytest.mark.parametrize("line", REFUSED, ids=" ".join)
def test_what_needs_an_extra_says_which(
    told: dict[tuple[str, ...], tuple[int, str, str]], line: tuple[str, ...]
) -> None:
    code, out, complaint = told[line]
    assert (code, out) == (2, "")
    assert complaint.count("\n") == 1
    extra = REFUSED[line]
    assert f'needs the extra "{extra}": ' in complaint
    assert complaint.endswith(f' -m pip install "fourfold[{extra}]"\n')


@pytest.mark.parametrize("line", ANSWERED, ids=" ".join)
def test_what_needs_none_answers(told: dict[tuple[str, ...], tuple[int, str, str]], line: tuple[str, ...]) -> None:
    code, out, complaint = told[line]
    assert code == 0, complaint
    assert out


def test_the_model_class_needs_torch_transformers_and_pillow_alone() -> None:
    # With what transformers itself asks for.
    needed = {"torch", "transformers", "pillow", "numpy", "safetensors", "packaging", "filelock", "typer", "rich"}
    needed.add("tokenizers")
    names = {one.name for extra in ["", *extras()] for one in requirements(extra)} - needed
    modules = [module for name in names if (module := MODULES.get(name, name.replace("-", "_")))]
    code = f"import sys; sys.modules.update(dict.fromkeys({sorted(modules)}))\n"
    code += "from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
