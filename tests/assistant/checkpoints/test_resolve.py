"""From a model's name to a directory."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from fourfold.assistant.checkpoints import resolve
from fourfold.assistant.checkpoints.calibration import Calibration, read_calibration
from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.assistant.checkpoints.resolve import assembled_path, resolve_model
from fourfold.prompts.errors import UserError
from tests.assistant.checkpoints import tiny_weights
from tests.assistant.checkpoints.conftest import Shop
from tests.tiny import save_tiny_checkpoint


@pytest.fixture
def bridge(tiny_parts: Shop, tiny_bridge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bridge in place of the shipped one, which the test may change."""
    copy = shutil.copytree(tiny_bridge, tmp_path / "bridge")
    monkeypatch.setattr(resolve, "BRIDGE", copy)
    return copy


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that the test may break."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


def test_the_default_model_is_assembled_once_and_then_needs_no_network(
    bridge: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(cache)
    told: list[str] = []
    directory = resolve_model(None, lambda event: told.append(event.stage))
    assert directory.name == "fourfold-mini"
    assert directory.is_relative_to(cache)
    assert json.loads((directory / "config.json").read_text())["vision_config"]["image_size"] == 64
    assert {what.split()[0] for what in told} == {"Downloading", "Assembling"}
    monkeypatch.setenv("FOURFOLD_OFFLINE", "1")
    monkeypatch.setattr("fourfold.assistant.checkpoints.mini.assemble", None)
    told.clear()
    for name in (None, "fourfold-mini"):
        assert resolve_model(name, lambda event: told.append(event.stage)) == directory
    assert not told


def test_the_base_needs_no_bridge(tiny_parts: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "BRIDGE", tmp_path / "none")
    directory = resolve_model("fourfold-mini-base", lambda event: None)
    assert directory.name == "fourfold-mini-base"
    assert not (directory / "bridge.json").exists()
    with pytest.raises(UserError, match=r"projector\.safetensors.*adapter_model\.safetensors.*fourfold-mini-base"):
        resolve_model("fourfold-mini")


def test_a_new_bridge_makes_a_new_model(bridge: Path) -> None:
    first = resolve_model("fourfold-mini", lambda event: None)
    record = json.loads((bridge / "bridge.json").read_text())
    (bridge / "bridge.json").write_text(json.dumps(record | {"seed": 6}))
    second = resolve_model("fourfold-mini", lambda event: None)
    assert second != first
    assert json.loads((second / "bridge.json").read_text())["seed"] == 6
    assert first.is_dir(), "what somebody used a moment ago stays"


def test_what_was_learnt_beside_a_bridge_comes_along(bridge: Path) -> None:
    first = resolve_model("fourfold-mini", lambda event: None)
    Calibration(model_fingerprint(first), {"predicate": 1.5}).write(bridge)
    second = resolve_model("fourfold-mini", lambda event: None)
    assert second != first and model_fingerprint(second) == model_fingerprint(first)
    found = read_calibration(second)
    assert found is not None and found.temperatures == {"predicate": 1.5}
    assert read_calibration(first) is None


def test_only_what_nobody_used_for_long_is_removed(bridge: Path) -> None:
    base = resolve_model("fourfold-mini-base", lambda event: None)
    old = resolve_model("fourfold-mini", lambda event: None)
    long_ago = time.time() - 7 * 24 * 3600
    for directory in (base, old):
        os.utime(directory.parent, (long_ago, long_ago))
    (bridge / "bridge.json").write_text((bridge / "bridge.json").read_text() + "\n")
    new = resolve_model("fourfold-mini", lambda event: None)
    assert new.is_dir()
    assert not old.exists()
    assert base.is_dir(), "another model's directory is none of its business"


def test_use_keeps_a_model(bridge: Path) -> None:
    old = resolve_model("fourfold-mini", lambda event: None)
    long_ago = time.time() - 7 * 24 * 3600
    os.utime(old.parent, (long_ago, long_ago))
    resolve_model("fourfold-mini", lambda event: None)
    (bridge / "bridge.json").write_text((bridge / "bridge.json").read_text() + "\n")
    resolve_model("fourfold-mini", lambda event: None)
    assert old.is_dir()


def test_a_damaged_model_is_assembled_anew(bridge: Path) -> None:
    directory = resolve_model("fourfold-mini", lambda event: None)
    weights = directory / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert resolve_model("fourfold-mini", lambda event: None) == directory
    assert weights.read_bytes() == whole


def test_what_a_killed_process_left_goes(bridge: Path) -> None:
    directory = assembled_path("fourfold-mini")
    leftover = directory.parent / ".fourfold-mini.building-x"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    resolve_model("fourfold-mini", lambda event: None)
    assert [path.name for path in directory.parent.iterdir()] == ["fourfold-mini"]


RESOLVE = """
from pathlib import Path
from fourfold.assistant.checkpoints import mini, resolve
mini.IMAGE_TOWER, mini.LANGUAGE_MODEL = pins['tower'], pins['language']
resolve.BRIDGE = Path(os.environ['BRIDGE'])
told = []
resolve.resolve_model(None, lambda event: told.append(event.stage.split()[0]))
print(sum(what == 'Assembling' for what in told))
"""


def test_two_at_once_assemble_once(bridge: Path, tiny_parts: Shop, cache: Path) -> None:
    shutil.rmtree(cache)
    environment = tiny_weights.only_from(tiny_parts.directory) | {"BRIDGE": str(bridge)}
    both = [tiny_weights.start(RESOLVE, tiny_parts.pins, cache, environment) for _ in range(2)]
    steps = []
    for process in both:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        steps.append(int(output))
    assert sorted(steps) == [0, 4]


def test_progress_goes_to_stderr(bridge: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(cache)
    resolve_model("fourfold-mini")
    output, errors = capfd.readouterr()
    assert not output
    assert "Downloading tiny tiny-tower" in errors
    assert "Assembling fourfold-mini" in errors
    assert "Writing model shards" not in errors


def test_a_checkpoint_directory_is_itself(checkpoint: Path) -> None:
    assert resolve_model(str(checkpoint)) == checkpoint


def test_a_sharded_checkpoint_is_one_too(tmp_path: Path) -> None:
    from tests.tiny import tiny_model, tiny_processor

    tiny_model(vocab_size=len(tiny_processor().tokenizer)).save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    tiny_processor().save_pretrained(tmp_path / "sharded")
    assert resolve_model(str(tmp_path / "sharded")).is_dir()
    shards = sorted((tmp_path / "sharded").glob("*.safetensors"))
    assert len(shards) > 1
    shards[1].unlink()
    with pytest.raises(UserError, match=shards[1].name):
        resolve_model(str(tmp_path / "sharded"))
    (tmp_path / "sharded/model.safetensors.index.json").write_text("[")
    with pytest.raises(UserError, match="damaged"):
        resolve_model(str(tmp_path / "sharded"))


@pytest.mark.parametrize("name", ["nonesuch", "fourfold-maxi", "/no/such/directory", ""])
def test_an_unknown_name_is_answered_with_the_known_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="give fourfold-mini"):
        resolve_model(name)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(b"x")
    with pytest.raises(UserError, match="fourfold convert"):
        resolve_model(str(tmp_path / "checkpoint.pth"))


def test_an_adapter_is_no_model(tiny_bridge: Path) -> None:
    with pytest.raises(UserError, match="LoRA adapter"):
        resolve_model(str(tiny_bridge))


def test_an_empty_directory_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json.*fourfold convert"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": "llava"}', "\x00"])
def test_another_configuration_is_refused(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json|llava"):
        resolve_model(str(checkpoint))


def test_a_block_that_the_model_no_longer_knows_is_told(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "vision_llm_block": None}))
    assert resolve_model(str(checkpoint)) == checkpoint
    (checkpoint / "config.json").write_text(json.dumps({**config, "vision_llm_block": 1}))
    with pytest.raises(UserError, match="vision_llm_block"):
        resolve_model(str(checkpoint))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_weights_that_were_cut_off_are_refused(checkpoint: Path, keep: int) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(UserError, match="cut off"):
        resolve_model(str(checkpoint))


def test_a_pointer_in_place_of_weights_is_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match="cut off or damaged"):
        resolve_model(str(checkpoint))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_missing_file_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(UserError, match=name.split("_")[0].split(".")[-1]):
        resolve_model(str(checkpoint))


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_tiny_checkpoint(tmp_path / "mine")
    assert resolve_model("~/mine") == tmp_path / "mine"


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fourfold.assistant.checkpoints.cache import cache_directory

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FOURFOLD_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == tmp_path / ".cache/fourfold"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg/fourfold"
    monkeypatch.setenv("FOURFOLD_CACHE", "~/own")
    assert cache_directory() == tmp_path / "own"
