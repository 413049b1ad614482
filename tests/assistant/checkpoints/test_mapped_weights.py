"""Weights where they lie in their files, against safetensors' own reader."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fourfold.assistant.checkpoints.mapped_weights import MappedWeights, under, weight_files

TENSORS = {
    "a.float": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "a.half": torch.randn(5, 2).half(),
    "b.brain": torch.randn(2, 3, 4).bfloat16(),
    "b.double": torch.randn(7).double(),
    "b.scalar": torch.tensor(1.5),
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    names = list(TENSORS)
    save_file({name: TENSORS[name] for name in names[:2]}, tmp_path / "one.safetensors")
    save_file({name: TENSORS[name] for name in names[2:]}, tmp_path / "two.safetensors")
    save_file({"of.something.else": torch.ones(1)}, tmp_path / "three.safetensors")
    where = dict.fromkeys(names[:2], "one.safetensors") | dict.fromkeys(names[2:], "two.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return tmp_path


def test_every_number_is_there_in_float32(directory: Path) -> None:
    weights = MappedWeights(weight_files(directory))
    assert {*weights} == {*TENSORS} and len(weights) == len(TENSORS)
    for _ in range(2):
        for name, tensor in TENSORS.items():
            assert weights[name].dtype == np.float32
            assert weights.shape(name) == tuple(tensor.shape)
            np.testing.assert_array_equal(weights[name], tensor.float().numpy())
            rows = tensor.float().reshape(-1, *tensor.shape[1:])
            np.testing.assert_array_equal(weights.first_row(name), rows[0].ravel())
        weights.forget_pages()  # they are read again
    assert not weights["a.float"].flags.writeable
    assert {*under("b", weights)} == {"brain", "double", "scalar"}
    np.testing.assert_array_equal(under("b", weights)["double"], TENSORS["b.double"].float())


def test_the_one_file_counts_before_an_index(directory: Path) -> None:
    save_file({"x": torch.ones(2)}, directory / "model.safetensors")
    assert [*MappedWeights(weight_files(directory))] == ["x"]


def test_what_is_cut_off_or_holds_whole_numbers_is_refused_when_it_is_asked_for(tmp_path: Path) -> None:
    save_file({"w": torch.ones(100), "n": torch.ones(3, dtype=torch.int8)}, tmp_path / "model.safetensors")
    weights = MappedWeights([tmp_path / "model.safetensors"])
    with pytest.raises(ValueError, match=r"in .*safetensors is of I8"):
        weights["n"]
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-200])
    cut = MappedWeights([tmp_path / "cut.safetensors"])
    with pytest.raises(ValueError, match="buffer"):
        _ = cut["w"], cut["n"]
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(ValueError, match="empty"):
        MappedWeights([tmp_path / "empty.safetensors"])
