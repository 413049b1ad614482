"""The steps between training and a server, on adapters that are none."""

from pathlib import Path

import pytest

import fourfold.assistant.refine.registry
from fourfold.assistant.refine.adapter import revision_of
from fourfold.assistant.refine.registry import Registry
from fourfold.assistant.refine.steps import current_adapter, drop_current, gate_baseline, promote, roll_back
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError
from tests.assistant.refine.corrections import correction, encoded, picture
from tests.assistant.refine.test_registry import train


@pytest.fixture
def store(tmp_path: Path) -> CorrectionStore:
    return CorrectionStore(tmp_path / "store")


def test_a_promotion_reads_the_adapter_once(store: CorrectionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(store.directory)
    revision, read = train(registry, 1), []

    def counting(directory: Path) -> str:
        read.append(directory.name)
        return revision_of(directory)

    monkeypatch.setattr(fourfold.assistant.refine.registry, "revision_of", counting)
    promote(store, registry, revision, force=True)
    assert read == [revision]


def test_the_baseline_of_a_gate_is_what_is_promoted(store: CorrectionStore) -> None:
    registry = Registry(store.directory)
    first, second = train(registry, 1), train(registry, 2)
    assert gate_baseline(store, registry, first) is None
    promote(store, registry, first, force=True)
    assert gate_baseline(store, registry, second) == registry.path(first)
    assert gate_baseline(store, registry, first) is None
    promote(store, registry, second, force=True)
    assert gate_baseline(store, registry, second) == registry.path(first)
    assert gate_baseline(store, registry, first) == registry.path(second)
    roll_back(store, registry)
    assert gate_baseline(store, registry, second) == registry.path(first)


def test_an_adapter_that_has_learnt_what_was_forgotten_is_no_baseline(store: CorrectionStore) -> None:
    """Its successor may know less than it, and could never be shown to be better."""
    registry = Registry(store.directory)
    store.add(correction(id="a"), encoded(picture()))
    first, second, rebuilt = train(registry, 1), train(registry, 2, "a"), train(registry, 3)
    for revision in (first, second):
        promote(store, registry, revision, force=True)
    store.forget("a")
    assert gate_baseline(store, registry, rebuilt) == registry.path(first)


def test_what_is_dropped_gives_way_to_what_has_not_learnt_it(store: CorrectionStore, tiny_checkpoint: Path) -> None:
    registry = Registry(store.directory)
    for name in "ab":
        store.add(correction(id=name), encoded(picture()))
    revisions = [train(registry, 1), train(registry, 2, "a"), train(registry, 3, "a", "b")]
    for revision in revisions:
        promote(store, registry, revision, force=True)
    store.forget("a")
    assert drop_current(store, registry).promoted == (revisions[0],)
    with pytest.raises(UserError, match="another checkpoint"):
        current_adapter(registry, tiny_checkpoint)
    assert drop_current(store, registry).promoted == ()
    assert current_adapter(registry, tiny_checkpoint) is None
