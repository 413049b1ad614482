"""A name of the Hub to a checkpoint, from a Hub on loopback and from its cache."""

import hashlib
import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from fourfold.assistant.checkpoints.hub.download import checkpoint_name, is_hub_name
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.progress import Progress
from fourfold.prompts.errors import UserError
from tests.assistant.checkpoints.hub.fake_hub import FakeHub


def resolve(name: str) -> Path:
    return resolve_model(name, lambda event: None)


def test_a_model_is_downloaded_once_without_code_and_pickles(hub: FakeHub, files: dict[str, bytes]) -> None:
    more = {"modeling.py": b"evil()", "pytorch_model.bin": b"pickle", "onnx/config.json": b"{}", ".gitattributes": b""}
    hub.repositories["org/tiny"] = files | more
    directory = resolve("org/tiny")
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {
        name: content for name, content in files.items() if not name.endswith(".py")
    }
    assert checkpoint_name(directory) == "tiny"
    hub.asked.clear()
    assert resolve("org/tiny") == directory
    assert not [line for line in hub.asked if "/resolve/" in line]


def test_the_engine_answers_with_it_under_its_name(hub: FakeHub, files: dict[str, bytes]) -> None:
    from fourfold.serving.engine.engine import Engine, Request, Sampling

    hub.repositories["org/tiny"] = files
    with Engine.load(resolve("org/tiny"), device="cpu") as engine:
        assert engine.model_name == "tiny"
        message = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
        assert engine.generate([Request([message], Sampling(max_tokens=2))])[0].completion_tokens > 0


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repositories["org/tiny"] = files
    hub.revisions.add("v1.0")
    directory = resolve("org/tiny@v1.0")
    assert directory.name == hub.commit("org/tiny")
    hub.asked.clear()
    assert resolve(f"org/tiny@{directory.name}") == directory
    assert hub.asked == [], "a commit is what it is"
    with pytest.raises(UserError, match=r"org/tiny@v2.*no such revision"):
        resolve("org/tiny@v2")


def test_a_directory_laid_out_as_the_hubs_cache_needs_no_hub(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef" * 2 + "01234567"
    snapshot = Path(constants.HF_HUB_CACHE) / "models--org--tiny" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    for name, content in files.items():
        (snapshot / name).write_bytes(content)
    monkeypatch.setenv("FOURFOLD_OFFLINE", "1")
    assert resolve("org/tiny") == snapshot
    assert checkpoint_name(snapshot) == "tiny"
    with pytest.raises(UserError, match=r"no directory org/other here.*FOURFOLD_OFFLINE is set"):
        resolve("org/other")
    monkeypatch.delenv("FOURFOLD_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        resolve("org/other")
    assert hub.asked == []


def test_what_was_downloaded_is_taken_where_the_hub_cannot_be_reached(
    hub: FakeHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["org/tiny"] = files
    directory = resolve("org/tiny")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert resolve("org/tiny") == directory
    with pytest.raises(
        UserError, match=r"org/other, which is no directory here: the Hub cannot be reached \(http://127"
    ):
        resolve("org/other")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "org/nothing",
            r"no directory org/nothing here, and the Hub has no model of that name; a private one.*HF_TOKEN",
        ),
        ("org/gated", "org/gated is gated: ask for access.*HF_TOKEN"),
        ("org/pickles", r"org/pickles has no \*\.safetensors weights; fourfold reads no other kind"),
        ("org/adapter", "org/adapter is a LoRA adapter, not a model"),
        ("org/data", "org/data is no model: it has no config.json"),
        ("org/damaged", "config.json of org/damaged is damaged"),
        ("org/llava", "org/llava is a model of type 'llava'"),
        ("org/cut", "cut off or damaged"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_sentence(hub: FakeHub, files: dict[str, bytes], name: str, said: str) -> None:
    hub.repositories |= {
        "org/gated": None,
        "org/pickles": {name: content for name, content in files.items() if not name.endswith(".safetensors")},
        "org/adapter": {"adapter_config.json": b"{}"},
        "org/data": {"README.md": b"# data"},
        "org/damaged": files | {"config.json": b"{"},
        "org/llava": files | {"config.json": json.dumps({"model_type": "llava"}).encode()},
        "org/cut": files | {"model.safetensors": files["model.safetensors"][:-10]},
    }
    with pytest.raises(UserError, match=said) as refused:
        resolve(name)
    assert "\n" not in str(refused.value)
    if name == "org/llava":
        assert not [line for line in hub.asked if line.endswith(".safetensors")], "gigabytes for nothing"


def test_a_hub_that_is_broken(hub: FakeHub) -> None:
    hub.status = 500
    with pytest.raises(UserError, match="org/tiny, which is no directory here: the Hub answered 500; try again later"):
        resolve("org/tiny")


def test_progress_counts_megabytes(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repositories["org/tiny"] = files | {"tokenizer.model": bytes(3_500_000)}
    told: list[Progress] = []
    resolve_model("org/tiny", told.append)
    assert {event.stage for event in told} == {"Downloading org/tiny (MB)"}
    assert told[-1].done == told[-1].total
    assert 3 <= (told[-1].total or 0) <= 5


def test_names_of_the_hub_and_paths() -> None:
    for name in ("org/name", "Org-1/name_2.0", "org/name@v1.0", "org/name@refs/pr/1"):
        assert is_hub_name(name)
    for path in ("/abs/dir", "./run/dir", "../dir", "name", "a/b/c", "org/", "org/name@", "~/dir", ".hidden/x"):
        assert not is_hub_name(path)
    with pytest.raises(UserError, match="org/name of the Hub"):
        resolve("nowhere")


def test_weights_are_those_that_the_hub_announced(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.repositories["org/tiny"] = files
    hub.large.add("model.safetensors")
    whole = files["model.safetensors"]
    hub.swapped["model.safetensors"] = whole[:-1] + bytes([whole[-1] ^ 1])  # as long, and whole as a file
    with pytest.raises(UserError, match=r"model\.safetensors of org/tiny is not what the Hub announced .*removed"):
        resolve("org/tiny")
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.safetensors"))
    del hub.swapped["model.safetensors"]
    assert (resolve("org/tiny") / "model.safetensors").read_bytes() == whole
    blob = (resolve("org/tiny") / "model.safetensors").resolve()
    assert blob.name == hashlib.sha256(whole).hexdigest()
