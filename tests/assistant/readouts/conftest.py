"""A library learnt from the small world, once for all tests."""

import pytest

from fourfold.assistant.readouts import ReadoutLibrary, learn_library
from tests.assistant.readouts.world import World


@pytest.fixture(scope="session")
def world() -> World:
    return World(300)


@pytest.fixture(scope="session")
def library(world: World) -> ReadoutLibrary:
    return learn_library(world.examples, world.features.__getitem__, "tower", steps=200)
