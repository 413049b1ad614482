"""Answers on a CPU are onnxruntime's: neither torch nor transformers is imported, and weights are there once."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.serving.engine.engine import Engine, Request, Sampling
from tests.serving.engine.conversations import ask, conversations, load
from tests.serving.engine.test_adapters import save_adapter

_HEAVY = ("torch", "transformers", "peft", "bitsandbytes", "scipy", "sklearn")
_CHAT = """
import sys
import fourfold.cli.main as cli
sys.argv = ["fourfold", "chat", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as end:
    print("ended with", end.code)
"""
_SERVE = """
import base64, sys
from pathlib import Path
from fastapi.testclient import TestClient
from fourfold.cli.refined import eyes_of
from fourfold.serving.api.app import create_app
from fourfold.serving.api.keys import KeyRing
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.engine.engine import Engine

checkpoint, picture, store = map(Path, sys.argv[1:])
picture = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "[refer] the dog"}]
wanted = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "max_tokens": 5, "logprobs": True}
with Engine.load(checkpoint, name="tiny") as engine:
    looking = eyes_of(engine, checkpoint, store)
    app = create_app(engine, keys=KeyRing(), limits=ServerLimits(), looking=looking)
    with TestClient(app) as client:
        for temperature in (0, 0.7):
            answer = client.post("/v1/chat/completions", json=wanted | {"temperature": temperature})
            assert answer.status_code == 200, answer.text
"""

_EIGHT = """
from PIL import Image
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.serving.engine.engine import Engine, Request, Sampling

with Engine.load(resolve_model(None), device="cpu") as engine:
    asked = []
    for number in range(8):
        picture = Image.new("RGB", (640, 480), (number, 9, 9))
        parts = [{"type": "image", "image": picture}, {"type": "text", "text": "what is it?"}]
        asked.append(Request([{"role": "user", "content": parts}], Sampling(max_tokens=40)))
    engine.generate(asked)
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmRSS")]
    print(int(line.split()[1]) * 1024)
"""


def imported(code: str, *arguments: object) -> set[str]:
    """Which of the heavy packages a program imports that ends well."""
    ending = f"\nprint('imported', {{*sys.modules}} & {set(_HEAVY)})"
    command = [sys.executable, "-c", code + ending, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    *_, last = done.stdout.splitlines() or [""]
    assert last.startswith("imported "), done.stdout + done.stderr
    found = last.removeprefix("imported ")
    return set() if found == "set()" else ast.literal_eval(found)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.effect_noise((90, 60), 80).convert("RGB").save(path)
    return path


def test_a_question_in_the_terminal(tiny_checkpoint: Path, photo: Path) -> None:
    words = (photo, "[refer] where is the dog?", "--json", "--model", tiny_checkpoint, "--max-tokens", 8)
    assert imported(_CHAT, *words) == set()


def test_a_server_with_its_forms_and_draws(tiny_checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    assert imported(_SERVE, tiny_checkpoint, photo, tmp_path) == set()


@pytest.mark.mini
def test_the_default_model_with_its_eyes(photo: Path) -> None:
    assert imported(_CHAT, photo, "where is the dog?", "--model", resolve_model(None)) == set()


@pytest.mark.mini
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_default_model_fits_into_a_gigabyte() -> None:
    """After eight questions at once about pictures; of the language model there is one copy, of the tower another."""
    done = subprocess.run([sys.executable, "-c", _EIGHT], capture_output=True, text=True, timeout=300, check=True)
    assert int(done.stdout) < 2**30


def test_weights_are_loaded_in_torch_when_an_adapter_comes_and_not_before(checkpoint: Path, tmp_path: Path) -> None:
    def answer(engine: Engine, adapter: str) -> list[int]:
        return engine.generate([Request(conversations()[0], Sampling(max_tokens=12), adapter=adapter)])[0].token_ids

    with load(checkpoint) as engine:
        plain = ask(engine, conversations()[0], max_tokens=12).token_ids
        assert engine.model_runner._in_torch is None
        engine.load_adapter("loud", save_adapter(checkpoint, tmp_path / "loud", seed=3))
        model: Any = engine.model_runner.in_torch.model
        assert next(model.model.vision_tower.parameters()).is_meta  # of it there is one copy still
        assert answer(engine, "loud") != plain
        assert answer(engine, "") == plain
        engine.unload_adapter("loud")
        assert answer(engine, "") == plain


def test_what_the_engine_does_not_read_itself_is_asked_of_transformers(checkpoint: Path, tmp_path: Path) -> None:
    """A setting that it does not know, sizes that are left out, and another place for the template: as before."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in checkpoint.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps({**settings, "add_prefix_space": False}))
    config = json.loads((copy / "config.json").read_text())
    del config["text_config"]["mlp_bias"], config["vision_norm_eps"]
    (copy / "config.json").write_text(json.dumps(config))
    with load(copy) as other, load(checkpoint) as engine:
        assert type(other._tokenizer) is not type(engine._tokenizer)
        for messages in conversations():
            expected = ask(engine, messages, max_tokens=10, logprobs=2)
            found = ask(other, messages, max_tokens=10, logprobs=2)
            assert found.token_ids == expected.token_ids
            assert found.logprobs == expected.logprobs
