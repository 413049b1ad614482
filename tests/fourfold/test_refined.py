"""`fourfold chat` with what corrections have made of the model."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

import fourfold.cli.main as cli
from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.assistant.refine.registry import Registry
from fourfold.assistant.refine.store import CorrectionStore
from tests.assistant.refine.corrections import correction, encoded, picture
from tests.tiny import tiny_model

Chat = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(picture()))
    return path


@pytest.fixture
def chat(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Chat:
    """Runs the command in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def chat(*words: object) -> tuple[int, str, str]:
        arguments = ["fourfold", "chat", *map(str, words), "--model", str(tiny_checkpoint), "--max-tokens", "5"]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as caught:
            cli.main()
            sys.exit(0)
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return chat


def test_a_correction_is_remembered_and_said(chat: Chat, photo: Path, tmp_path: Path) -> None:
    store = CorrectionStore(tmp_path / "store")
    asked = (photo, "what colour is thing 0?", "--json", "--memory", "--store", store.directory)
    code, out, err = chat(*asked)
    assert (code, json.loads(out)["remembered"], "remembered" in err) == (0, None, False)
    added = store.add(correction(), photo.read_bytes())
    code, out, err = chat(*asked)
    assert code == 0
    assert json.loads(out)["remembered"] == {"id": added.id}
    assert correction().chosen.startswith(json.loads(out)["text"])  # five tokens of it
    assert json.loads(out)["text"]
    assert f"remembered from your correction {added.id}" in err
    assert "remembered" not in json.loads(chat(*asked[:3])[1])


def test_the_current_adapter_answers(chat: Chat, photo: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    registry = Registry(tmp_path / "data" / "fourfold" / "refine")
    asked = (photo, "what is it?", "--json")
    code, out, _ = chat(*asked, "--adapter", "current")  # none is promoted yet
    shipped = json.loads(out)["text"]
    assert code == 0
    model = get_peft_model(
        tiny_model(vocab_size=500), LoraConfig(r=4, target_modules=r".*language_model.*(q_proj|v_proj|up_proj)")
    )
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    built = registry.directory / "built"
    model.save_pretrained(built)
    base = model_fingerprint(tiny_checkpoint)
    revision = registry.register(built, base=base, data="data", records=[])
    registry.promote(revision.id, force=True)
    changed = json.loads(chat(*asked, "--adapter", "current")[1])["text"]
    assert changed != shipped
    assert json.loads(chat(*asked, "--adapter", registry.path(revision.id))[1])["text"] == changed
    assert json.loads(chat(*asked, "--adapter", "current", "--strength", "0")[1])["text"] == shipped
    assert json.loads(chat(*asked)[1])["text"] == shipped


def test_a_store_that_is_not_there_is_refused_and_not_made(chat: Chat, photo: Path, tmp_path: Path) -> None:
    for store in (tmp_path / "typo", tmp_path):  # the second is a folder without corrections
        code, _, err = chat(photo, "what?", "--memory", "--store", store)
        assert code == 2
        assert "no corrections are kept there" in err and err.count("\n") == 1
    assert not (tmp_path / "typo").exists() and not list(tmp_path.glob("*.sqlite"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--adapter", "/nowhere"), r"is no LoRA adapter"),
        (("--strength", "0.5"), "--strength goes with --adapter current"),
        (("--store", "/tmp", "--no-eyes"), "--store goes with --memory"),
        (("--adapter", "current", "--strength", "2"), "less than or equal to 1"),
    ],
)
def test_options_that_do_not_go_together(chat: Chat, photo: Path, words: tuple[str, ...], message: str) -> None:
    code, _, err = chat(photo, "what?", *words)
    assert code == 2
    assert message in err
