"""The steps of a refinement in order, as the command and the page take them; the gate stands between the first two."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from fourfold.assistant.checkpoints.check import is_minigpt_v2
from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.assistant.progress import OnProgress
from fourfold.assistant.refine.adapter import scaled_adapter
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.assistant.refine.registry import Registry, Revision, State
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from fourfold.assistant.refine.deploy import ServerAdmin

_NEW = Path("adapters") / ".new"


def train_adapter(
    store: CorrectionStore,
    registry: Registry,
    model_directory: Path,
    *,
    max_steps: int | None = None,
    seed: int = 0,
    recipe: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Revision:
    """Train an adapter from the store's corrections and register it. One that was interrupted is gone on with.

    Args:
        store, registry: of one directory.
        model_directory: the checkpoint that was corrected.
        max_steps, seed, recipe, on_progress: as `training.learn.train` takes them; other architectures than
            MiniGPT-v2 are learnt by `training.any_model.train_any`.

    Raises:
        UserError: there is nothing to learn, a training runs already, corrections are on images of a benchmark, or one
            of them was forgotten meanwhile.
    """
    from fourfold.assistant.refine.training.any_model import train_any
    from fourfold.assistant.refine.training.learn import train

    if refused := store.list(excluded=True):
        ids = ", ".join(correction.id for correction in refused[:5])
        raise UserError(
            f"{len(refused)} corrections are on images that are excluded as a benchmark's: {ids}; "
            "forget them first (fourfold refine forget ID)"
        )
    out = registry.directory / _NEW
    with _training(registry):
        shutil.rmtree(out, ignore_errors=True)  # of a process that was killed before it could register it
        teach = train if is_minigpt_v2(model_directory) else train_any
        teach(
            registry.directory,
            model_directory,
            out,
            max_steps=max_steps,
            seed=seed,
            recipe=recipe,
            on_progress=on_progress,
        )
        told = json.loads((out / "training.json").read_text(encoding="utf-8"))
        records = [*told["corrections"]["learnt"], *told["corrections"]["kept"]]
        if gone := set(records) & set(store.forgotten()):
            shutil.rmtree(out)
            raise UserError(
                f"{len(gone)} corrections were forgotten while they were learnt; the adapter is deleted, train again"
            )
        return registry.register(out, base=told["model"], data=told["data"], records=records)


def gate_baseline(store: CorrectionStore, registry: Registry, revision: str) -> Path | None:
    """The adapter to gate a revision against: what would answer in its place.

    That is the promoted one, or the one before it where the promoted one is the revision itself or has learnt what was
    forgotten: such a one goes whatever the gate says, and knows more than its successor may.

    Returns:
        Its directory; None for the model as it was shipped: nothing is promoted, or an adapter of another checkpoint.

    Raises:
        UserError: its files are missing or changed.
    """
    state = registry.state()
    passed_over = {revision, *registry.holding(list(store.forgotten()))}
    baseline = next((id for id in reversed(state.promoted) if id not in passed_over), None)
    if baseline is None or state.revisions[baseline].base != state.revisions[revision].base:
        return None
    return registry.path(baseline)


def promote(
    store: CorrectionStore,
    registry: Registry,
    revision: str,
    *,
    force: bool = False,
    server: "ServerAdmin | None" = None,
    lora_scale: float = 1.0,
) -> State:
    """Make a revision current; a server that runs answers with it from now on.

    The server comes first: where it refuses, nothing has changed.

    Args:
        store, registry: of one directory. Adapters that have learnt what was forgotten and are no longer current are
            deleted.
        revision: its id.
        force: although the gate refused it or was not asked.
        server: that is to follow; None to promote it here alone.
        lora_scale: 0..1, of what the server loads.

    Raises:
        UserError: the gate did not let it pass, it has learnt what was forgotten, or the server cannot load it.
    """
    if revision in registry.holding(list(store.forgotten())):
        raise UserError(f"the adapter {revision} has learnt a correction that was forgotten; train again without it")
    registry.promote(revision, force=force, deploy=_follow(server, lora_scale))
    return _delete_stale(store, registry)


def roll_back(store: CorrectionStore, registry: Registry, *, server: "ServerAdmin | None" = None) -> State:
    """Make the one before current again, in a running server as well; before the first is the model as it was shipped.

    A server then no longer knows the adapter's name: ask for the model by its own.

    Raises:
        UserError: nothing is promoted, or the server refuses.
    """
    registry.rollback(deploy=_follow(server))
    return _delete_stale(store, registry)


def forget(store: CorrectionStore, registry: Registry, record: str) -> str | None:
    """Delete a correction, and everything that was made of it except the adapter that is current.

    One that was forgotten while the current revision has learnt it may be forgotten again: what was interrupted then is
    gone on with.

    Returns:
        The current revision where it has learnt the correction: promoting one that was trained without it deletes it,
        and so does `drop_current`.

    Raises:
        UserError: there is no such correction.
    """
    if record in store.forgotten():
        current = _delete_stale(store, registry).current
        if current in registry.holding([record]):
            return current
    store.get(record)
    _drop_what_shows_it(registry)
    store.forget(record)
    return _still_learnt(store, registry, [record])


def forget_concept(store: CorrectionStore, registry: Registry, name: str) -> tuple[int, str | None]:
    """Delete what was shown, and everything that was made of it except the adapter that is current.

    Returns:
        How many examples it had, and the current revision where it has learnt one of them.

    Raises:
        UserError: no concept has this name.
    """
    concepts = ConceptStore(store.directory)
    ids = [example.id for example in concepts.get(name).examples if example.correction is None]
    _drop_what_shows_it(registry)
    count = concepts.forget(name)
    return count, _still_learnt(store, registry, ids)


def forget_example(store: CorrectionStore, registry: Registry, id: str) -> str | None:
    """The same for one example of a concept.

    Returns:
        The current revision where it has learnt the example.

    Raises:
        UserError: there is no such example.
    """
    concepts = ConceptStore(store.directory)
    if any(example.id == id for concept in concepts.list() for example in concept.examples):
        _drop_what_shows_it(registry)
    concepts.forget_example(id)
    return _still_learnt(store, registry, [id])


def _drop_what_shows_it(registry: Registry) -> None:
    """Delete reports and unfinished trainings, which may show any correction.

    It goes first: killed after the record itself is gone, nothing would be left that knew of it.
    """
    registry.drop_reports()
    # A training that runs now is told at its end.
    with contextlib.suppress(UserError), _training(registry):
        for name in (_NEW, _NEW.with_name(f"{_NEW.name}.work")):
            shutil.rmtree(registry.directory / name, ignore_errors=True)


def _still_learnt(store: CorrectionStore, registry: Registry, ids: Sequence[str]) -> str | None:
    """The current revision where it has learnt one of them; others that have are deleted."""
    state = _delete_stale(store, registry)
    return state.current if state.current in registry.holding(ids) else None


def drop_current(store: CorrectionStore, registry: Registry, *, server: "ServerAdmin | None" = None) -> State:
    """Delete the current revision because of what it has learnt; what was current before it is current again.

    Raises:
        UserError: the server refuses; then nothing has changed.
    """
    state = registry.state()
    if state.current is None:
        return state
    stale = registry.holding(list(store.forgotten()))
    return registry.remove(list({state.current, *stale}), deploy=_follow(server))


def current_adapter(registry: Registry, model_directory: Path, lora_scale: float = 1.0) -> Path | None:
    """The adapter to load with a model at its start; None where the model answers as it was shipped.

    Raises:
        UserError: the current revision belongs to another checkpoint, or its files are missing or changed.
    """
    state = registry.state()
    if state.current is None:
        return None
    base = state.revisions[state.current].base
    if base != model_fingerprint(model_directory):
        raise UserError(
            f"the adapter {state.current} was trained for another checkpoint than {model_directory}; "
            "train again (fourfold refine train), or roll back"
        )
    return scaled_adapter(registry.path(state.current), lora_scale)


def _follow(server: "ServerAdmin | None", lora_scale: float = 1.0) -> Callable[[Path | None], None]:
    def deploy(directory: Path | None) -> None:
        if server is None:
            return
        if directory is None:
            server.unload()
        else:
            server.load(scaled_adapter(directory, lora_scale))

    return deploy


@contextlib.contextmanager
def _training(registry: Registry) -> Iterator[None]:
    registry.directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(registry.directory / "training.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError("another training runs with this store; wait until it has ended") from None
    try:
        yield
    finally:
        lock.release()


def _delete_stale(store: CorrectionStore, registry: Registry) -> State:
    """Delete adapters that have learnt what was forgotten, the current one excepted."""
    state = registry.state()
    stale = [id for id in registry.holding(list(store.forgotten())) if id != state.current]
    return registry.remove(stale) if stale else state
