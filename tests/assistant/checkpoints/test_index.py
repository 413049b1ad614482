"""The index of a checkpoint that has more than weights in safetensors' format."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fourfold.assistant.checkpoints.check import check_checkpoint
from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.assistant.checkpoints.index import INDEX, write_index
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration


def test_names_the_weights_where_there_is_more(tiny_checkpoint: Path, tmp_path: Path) -> None:
    directory = tmp_path / "tiny"
    shutil.copytree(tiny_checkpoint, directory)
    write_index(directory)
    assert not (directory / INDEX).exists()  # there is nothing to tell apart
    save_file({"boxes": torch.zeros(2)}, directory / "readouts.safetensors")
    before = model_fingerprint(directory)
    write_index(directory)
    weights = load_file(directory / "model.safetensors")
    assert json.loads((directory / INDEX).read_text())["weight_map"] == dict.fromkeys(weights, "model.safetensors")
    assert model_fingerprint(directory) == before == model_fingerprint(tiny_checkpoint)
    check_checkpoint(directory)
    loaded = MiniGPTv2ForConditionalGeneration.from_pretrained(directory)
    assert torch.equal(loaded.model.projector.weight, weights["model.projector.weight"])


def test_leaves_what_is_there(tiny_checkpoint: Path, tmp_path: Path) -> None:
    directory = tmp_path / "tiny"
    shutil.copytree(tiny_checkpoint, directory)
    save_file({"boxes": torch.zeros(2)}, directory / "readouts.safetensors")
    (directory / INDEX).write_text("{}")
    write_index(directory)
    assert (directory / INDEX).read_text() == "{}"


@pytest.mark.mini
def test_the_default_model_has_one() -> None:
    directory = resolve_model()
    assert (directory / "readouts.safetensors").exists()
    assert set(json.loads((directory / INDEX).read_text())["weight_map"].values()) == {"model.safetensors"}
