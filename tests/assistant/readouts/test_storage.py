"""A library as a file."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fourfold.assistant.checkpoints.bridge import BRIDGE
from fourfold.assistant.checkpoints.fingerprint import tower_fingerprint
from fourfold.assistant.grounding import Box
from fourfold.assistant.readouts import (
    READOUTS,
    ReadoutLibrary,
    concept_readout,
    load_readouts,
    read_library,
    save_library,
)
from fourfold.prompts.errors import UserError
from tests.assistant.readouts.world import World

BOX = Box(0.25, 0.25, 0.5, 0.5)


def test_a_saved_library_finds_the_same(library: ReadoutLibrary, world: World, tmp_path: Path) -> None:
    path = tmp_path / "library.safetensors"
    save_library(library, path)
    read = read_library(path, "tower")
    assert read.names == library.names and read.provenance == library.provenance and read.synonyms == library.synonyms
    for example in world.examples[:10]:
        features, noun = world.features[example.key], example.things[0].nouns[0]
        one, other = library.find(features, f"red {noun}"), read.find(features, f"red {noun}")
        assert one is not None and other is not None
        assert other.boxes[0].iou(one.boxes[0]) > 0.97 and other.presence == pytest.approx(one.presence, abs=0.02)
    shown = [(world.features["world-0-0"], [BOX], True)]
    np.testing.assert_allclose(
        concept_readout("it", shown, read).weights, concept_readout("it", shown, library).weights, atol=5e-3
    )


def test_what_a_person_showed_is_not_written_into_a_library(
    library: ReadoutLibrary, world: World, tmp_path: Path
) -> None:
    taught = library.with_concepts([concept_readout("Rex", [(world.features["world-0-0"], [BOX], True)], library)])
    save_library(taught, tmp_path / "library.safetensors")
    assert b"Rex" not in (tmp_path / "library.safetensors").read_bytes()


def test_a_library_of_another_tower_or_a_damaged_one_is_refused_in_a_sentence(
    library: ReadoutLibrary, tmp_path: Path
) -> None:
    path = tmp_path / "library.safetensors"
    with pytest.raises(UserError, match="there is no library"):
        read_library(path)
    save_library(library, path)
    with pytest.raises(UserError, match="another image tower"):
        read_library(path, "another")
    whole = path.read_bytes()
    for content in (b"", whole[:1000], b"\x00" * 5000, whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            read_library(path)
    save_file({"weights": np.zeros((2, 3), np.float32)}, path)
    with pytest.raises(UserError, match="damaged"):
        read_library(path)


def test_a_checkpoint_has_its_own_library_or_that_of_its_tower(
    library: ReadoutLibrary, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    assert load_readouts(tiny_checkpoint) is None  # the shipped one is of another tower
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    for file in tiny_checkpoint.iterdir():
        (directory / file.name).symlink_to(file)
    save_library(library, directory / READOUTS)
    with pytest.raises(UserError, match="another image tower"):
        load_readouts(directory)


def test_the_shipped_library_knows_common_things() -> None:
    shipped = read_library(BRIDGE / READOUTS)
    assert {"dog", "man", "ball", "circle", "cat"} <= set(shipped.names)
    assert {r.name for r in shipped.readouts if r.kind == "colour"} >= {"red", "blue", "black"}
    assert shipped.noun_of("puppy") and shipped.noun_of("sofa") and shipped.noun_of("zzz") is None
    assert (BRIDGE / READOUTS).stat().st_size < 8e6


@pytest.mark.mini
def test_the_shipped_library_is_of_the_default_models_tower() -> None:
    from fourfold.assistant.checkpoints.resolve import resolve_model

    assert read_library(BRIDGE / READOUTS).tower == tower_fingerprint(resolve_model())
