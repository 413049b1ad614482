"""The refined adapters of a store: kept for good, promoted one after the other, and put back."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from fourfold.assistant.files import sync_directory, write_text
from fourfold.assistant.refine.adapter import revision_of
from fourfold.assistant.validation import validated
from fourfold.prompts.errors import UserError

SERVED_NAME = "fourfold-refined"
"""What a server calls the adapter that is current."""
_FORMAT = 1

Deploy = Callable[[Path | None], object]
"""Told the directory of the adapter that is to be current, None for the model as shipped; raising calls it off."""


@dataclass(frozen=True)
class Gate:
    """What the gate said about a revision.

    Attributes:
        promotable: whether it may be promoted without force.
        summary: its figures, JSON values.
        report: the HTML page.
        time: seconds since 1970.
    """

    promotable: bool
    summary: Mapping[str, Any]
    report: str | None
    time: float


@dataclass(frozen=True)
class Revision:
    """A trained adapter.

    Attributes:
        id: the first 12 hex digits of the SHA-256 of its weights and configuration.
        parent: the revision that was current when it was trained; None for none.
        base: fingerprint of the checkpoint that it belongs to.
        data: hash of the corrections that it learnt.
        records: their ids.
        created: seconds since 1970.
        gate: None until it was measured.
        removed: whether its weights are deleted, because a correction in it was forgotten.
    """

    id: str
    parent: str | None
    base: str
    data: str
    records: tuple[str, ...]
    created: float
    gate: Gate | None = None
    removed: bool = False


@dataclass(frozen=True)
class Event:
    """Something that happened to the registry.

    Attributes:
        what: "trained", "gated", "promoted", "rolled back" or "removed".
        revision: that it happened to; of a rollback the one that is current now, None for the model as it was shipped.
        time: seconds since 1970.
        forced: whether a promotion went against the gate, or without one.
    """

    what: str
    revision: str | None
    time: float
    forced: bool = False


@dataclass(frozen=True)
class State:
    """The registry at one moment.

    Attributes:
        revisions: by id, in the order of their training.
        promoted: ids, the current one last; empty where the model answers as it was shipped.
        events: all that happened, in order.
        current: the promoted revision; None for the model as it was shipped.
        previous: what a rollback would make current, the same way.
    """

    revisions: Mapping[str, Revision] = field(default_factory=dict)
    promoted: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()

    @property
    def current(self) -> str | None:
        return self.promoted[-1] if self.promoted else None

    @property
    def previous(self) -> str | None:
        return self.promoted[-2] if len(self.promoted) > 1 else None


class Registry:
    """`registry.json` and `adapters/REVISION/` of a correction store.

    The directory of a revision is written once and never changed. The file is replaced as a whole, so that whoever
    reads it sees the state before a change or after it, and a process that is killed at any moment leaves one of the
    two. Processes that change it wait for each other.

    Args:
        store_directory: of the `CorrectionStore`.
    """

    def __init__(self, store_directory: str | Path) -> None:
        self.directory = Path(store_directory)
        self._file = self.directory / "registry.json"

    def state(self) -> State:
        """What is registered now; UserError where the file is damaged or of a newer version."""
        try:
            values = json.loads(self._file.read_bytes())
            if values["format"] == _FORMAT:
                return State(
                    revisions={entry["id"]: validated(Revision, entry) for entry in values["revisions"]},
                    promoted=tuple(values["promoted"]),
                    events=validated(tuple[Event, ...], values["events"]),
                )
        except FileNotFoundError:
            return State()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._file} cannot be read ({type(error).__name__}: {error})") from None
        raise UserError(f"{self._file} was made by a newer version of Fourfold; update Fourfold")

    def path(self, revision: str) -> Path:
        """The adapter directory of a revision, with its files as they were trained.

        Raises:
            UserError: there is no such revision, it was removed, or its files were changed.
        """
        return self._directory(self.state(), revision)

    def find(self, name: str | None) -> str:
        """The revision called `name`, by its whole id or its first digits; the one trained last for None.

        Raises:
            UserError: there is none, or more than one.
        """
        there = [revision.id for revision in self.state().revisions.values() if not revision.removed]
        if name is None:
            if not there:
                raise UserError("no adapter was trained yet; run: fourfold refine train")
            return there[-1]
        found = [id for id in there if id.startswith(name)] if name else []
        if len(found) != 1:
            known = ", ".join(there) or "none"
            raise UserError(
                f"{'several adapters are' if found else 'no adapter is'} called {name!r}; there are: {known}"
            )
        return found[0]

    def register(self, built: Path, *, base: str, data: str, records: Sequence[str]) -> Revision:
        """Take over a trained adapter. `built` is moved away, so it must lie in the same file system.

        Args:
            built: directory as PEFT saves it, and whatever else belongs to the training.
            base: fingerprint of the checkpoint.
            data: hash of the corrections.
            records: ids of the corrections whose content is in the weights.

        Raises:
            UserError: it is no adapter, or its revision was removed: it learnt what was to be forgotten.
        """
        try:
            id = revision_of(built)
        except OSError as error:
            raise UserError(f"{built} is no adapter ({error.strerror})") from None
        with self._changing() as state:
            known = state.revisions.get(id)
            if known is not None and known.removed:
                raise UserError(f"the adapter {id} was removed and has been trained again from forgotten corrections")
            target = self.directory / "adapters" / id
            if _is_intact(target, id):
                shutil.rmtree(built)  # the same training again, or one that was killed before it was registered
            else:
                _delete(target)
                _make_durable(built)
                target.parent.mkdir(exist_ok=True)
                built.rename(target)
                sync_directory(target.parent)
            if known is not None:
                return known
            now = time.time()
            revision = Revision(id, state.current, base, data, tuple(records), now)
            self._write(_with(state, revision, Event("trained", id, now)))
            return revision

    def gated(self, revision: str, *, promotable: bool, summary: Mapping[str, Any], report: Path | None) -> Revision:
        with self._changing() as state:
            now = time.time()
            gate = Gate(promotable, dict(summary), None if report is None else str(report), now)
            measured = replace(self._entry(state, revision), gate=gate)
            self._write(_with(state, measured, Event("gated", revision, now)))
            return measured

    def promote(self, revision: str, *, force: bool = False, deploy: Deploy = lambda directory: None) -> State:
        """Make a revision current.

        Args:
            revision: its id.
            force: although the gate refused it or was not asked; kept in the history.
            deploy: has a server follow, before anything is written here.

        Raises:
            UserError: its files are missing or changed; or, without `force`, the gate was not asked or said no.
        """
        with self._changing() as state:
            directory = self._directory(state, revision)
            gate = self._entry(state, revision).gate
            forced = not (gate and gate.promotable)
            if forced and not force:
                raise UserError(_why_refused(revision, gate))
            deploy(directory)
            promoted = state.promoted if state.current == revision else (*state.promoted, revision)
            event = Event("promoted", revision, time.time(), forced)
            return self._write(replace(state, promoted=promoted, events=(*state.events, event)))

    def rollback(self, *, deploy: Deploy = lambda directory: None) -> State:
        """Make the one before the current revision current again; before the first comes the model as it was shipped.

        Raises:
            UserError: nothing is promoted, or the files of the one before are missing or changed.
        """
        with self._changing() as state:
            if state.current is None:
                raise UserError("there is nothing to roll back: no adapter is promoted")
            deploy(None if state.previous is None else self._directory(state, state.previous))
            event = Event("rolled back", state.previous, time.time())
            return self._write(replace(state, promoted=state.promoted[:-1], events=(*state.events, event)))

    def holding(self, records: Sequence[str]) -> list[str]:
        """Revisions that have learnt one of these corrections and whose weights still exist."""
        wanted = set(records)
        return [r.id for r in self.state().revisions.values() if not r.removed and wanted & set(r.records)]

    def remove(self, revisions: Sequence[str], *, deploy: Deploy = lambda directory: None) -> State:
        """Delete the weights and reports of revisions; what is left of them is their line in the history.

        A removed revision is no longer current and no rollback leads to it.
        """
        with self._changing() as state:
            current = state.current
            for id in revisions:
                state = _with(state, replace(self._entry(state, id), removed=True), Event("removed", id, time.time()))
            promoted = [id for id in state.promoted if id not in revisions]
            # A stack without neighbours that are the same: rolling back must always change something.
            promoted = [id for place, id in enumerate(promoted) if place == 0 or promoted[place - 1] != id]
            if current in revisions:
                deploy(self._directory(state, promoted[-1]) if promoted else None)
            # First the promise, then the deed: killed in between, the files are deleted by the next change.
            return self._write(replace(state, promoted=tuple(promoted)))

    def gate_directory(self, revision: str) -> Path:
        return self.directory / "gates" / revision

    def drop_reports(self) -> None:
        """Delete the gate's pages of all revisions: they show corrections. What the gate decided stays."""
        with self._changing():
            _delete(self.directory / "gates")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[State]:
        """The state, for changing: one process at a time. At the end, files of removed revisions are deleted."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            # The lock is the kernel's: it goes with the process that held it.
            with FileLock(self.directory / "registry.lock", timeout=60):
                for part in self.directory.glob(".registry.*"):  # of a process that was killed
                    part.unlink()
                yield self.state()
                for revision in self.state().revisions.values():
                    if revision.removed:
                        _delete(self.directory / "adapters" / revision.id)
                        _delete(self.gate_directory(revision.id))
                        for derived in (self.directory / "derived").glob(f"{revision.id}@*"):
                            _delete(derived)
        except TimeoutError:
            raise UserError(f"another process is changing {self._file} for too long; try again") from None
        except OSError as error:
            raise UserError(f"the registry {self._file} cannot be written ({error.strerror})") from None

    def _write(self, state: State) -> State:
        values = {
            "format": _FORMAT,
            "current": state.current,
            "previous": state.previous,
            "promoted": list(state.promoted),
            "revisions": [asdict(revision) for revision in state.revisions.values()],
            "events": [asdict(event) for event in state.events],
        }
        write_text(self._file, json.dumps(values, indent=2) + "\n")
        return state

    def _directory(self, state: State, revision: str) -> Path:
        directory = self.directory / "adapters" / revision
        if self._entry(state, revision).removed:
            raise UserError(f"the adapter {revision} was removed, because a correction in it was forgotten")
        if not _is_intact(directory, revision):
            raise UserError(f"the adapter {directory} is missing or was changed after its training; train it again")
        return directory

    @staticmethod
    def _entry(state: State, revision: str) -> Revision:
        if revision not in state.revisions:
            raise UserError(f"no adapter is called {revision!r}; see: fourfold refine history")
        return state.revisions[revision]


def _why_refused(revision: str, gate: Gate | None) -> str:
    if gate is None:
        return f"the adapter {revision} was not measured; run: fourfold refine gate (or promote --force)"
    where = f", see {gate.report}" if gate.report else ""
    return f"the gate refused the adapter {revision}{where}; promote --force overrules it"


def _is_intact(directory: Path, revision: str) -> bool:
    try:
        return revision_of(directory) == revision
    except OSError:
        return False


def _with(state: State, revision: Revision, event: Event) -> State:
    revisions = {**state.revisions, revision.id: revision}
    return replace(state, revisions=revisions, events=(*state.events, event))


def _make_durable(directory: Path) -> None:
    """Have a directory's files on the disk, and closed to writing, before anything speaks of them."""
    for file in directory.rglob("*"):
        if file.is_file():
            file.chmod(0o444)
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    sync_directory(directory)


def _delete(directory: Path) -> None:
    if directory.exists():  # what cannot be deleted must not go unnoticed
        shutil.rmtree(directory)
