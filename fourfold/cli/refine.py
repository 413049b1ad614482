"""`fourfold refine`: corrections in and out, an adapter that learns them, the gate, promotion and rollback."""

import json
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fourfold.assistant.extras import require
from fourfold.assistant.progress import OnProgress, progress_bar
from fourfold.cli.options import examples
from fourfold.cli.refine_progress import How, ProgressForm, telling
from fourfold.cli.refined import StoreOption, store_directory
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from fourfold.assistant.refine.deploy import ServerAdmin
    from fourfold.assistant.refine.registry import Registry, Revision, State
    from fourfold.assistant.refine.store import CorrectionStore


class ExportForm(StrEnum):
    """How corrections are written."""

    JSONL = "jsonl"
    TRL = "trl"


app = typer.Typer(
    help="Learn from corrections: import, train, gate, promote, roll back.",
    no_args_is_help=True,
    epilog=examples(
        "fourfold refine import corrections.jsonl",
        "fourfold refine train",
        "fourfold refine gate",
        "fourfold refine promote",
        "fourfold refine rollback",
    ),
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Model = Annotated[str | None, typer.Option(help="The checkpoint that was corrected; default: fourfold-mini.")]
MaxSteps = Annotated[int | None, typer.Option(min=1, help="Steps at most; default: by the number of corrections.")]
Seed = Annotated[int, typer.Option(help="Of all randomness.")]
Endpoint = Annotated[
    str | None, typer.Option(help="A running server that is to follow at once, http://127.0.0.1:8000/v1.")
]
AdminKey = Annotated[
    str | None,
    typer.Option(envvar="FOURFOLD_ADMIN_KEY", help="The server's admin key; the variable is safer than the option."),
]
RevisionName = Annotated[
    str | None, typer.Argument(metavar="[REVISION]", help="Its first digits suffice; default: the one trained last.")
]


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="JSON lines, one correction a line (docs/refinement.md).")],
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Read corrections from a file, all of them or, after a bad line, none."""
    from fourfold.assistant.refine.transfer import import_corrections

    done = import_corrections(_store(store), file)
    _print(
        as_json,
        asdict(done),
        f"{done.added} corrections imported, {done.known} known already, {done.forgotten} forgotten before",
    )


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="JSON lines to write, images/ beside it; for trl a new folder.")],
    form: Annotated[
        ExportForm,
        typer.Option("--format", help="jsonl: all, as `import` reads them. trl: what is learnt, for SFT and DPO."),
    ] = ExportForm.JSONL,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Write the corrections to a file that `import` reads, or as data sets for TRL's trainers."""
    if form is ExportForm.TRL:
        from fourfold.assistant.refine.trl_export import export_trl

        sft, dpo = export_trl(_store(store), file)
        told = {"sft": sft, "dpo": dpo, "folder": str(file)}
        _print(as_json, told, f"{sft} conversations in {file / 'sft.parquet'}, {dpo} pairs in {file / 'dpo.parquet'}")
        return
    from fourfold.assistant.refine.transfer import export_corrections

    count = export_corrections(_store(store), file)
    _print(as_json, {"exported": count, "file": str(file)}, f"{count} corrections written to {file}")


@app.command()
def exclude(
    paths: Annotated[list[Path] | None, typer.Argument(help="Images of a benchmark, or folders of them.")] = None,
    name: Annotated[str, typer.Option(help="The benchmark's name, for messages.")] = "",
    card: Annotated[bool, typer.Option("--card", help="The held-out photos of the model's own card.")] = False,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Name images of benchmarks, from which nothing may be learnt: import, add and train refuse them by hash."""
    from fourfold.assistant.image_files import image_files
    from fourfold.assistant.refine.exclusion import Excluded, card_photos, exclude_files

    groups = [(image_files([path]), name or path.name or str(path)) for path in paths or []]
    if card:
        groups.append((card_photos(), name or "fourfold's card"))
    if not groups:
        raise UserError("name images or folders of images, or --card")
    corrections = _store(store)
    total = Excluded(0, 0, ())
    with progress_bar() as tell:
        for files, source in groups:
            done = exclude_files(corrections, files, source, tell)
            total = Excluded(total.new + done.new, total.known + done.known, total.unreadable + done.unreadable)
    stored = [correction.id for correction in corrections.list(excluded=True)]
    lines = [f"{total.new} images excluded, {total.known} were before"]
    lines += [f"not readable: {path}" for path in total.unreadable]
    if stored:
        lines.append(f"{len(stored)} corrections in the store are on such images; forget them before training:")
        lines += stored
    _print(as_json, {**asdict(total), "corrections_on_them": stored}, "\n".join(lines))


@app.command()
def train(
    max_steps: MaxSteps = None,
    seed: Seed = 0,
    model: Model = None,
    recipe: Annotated[Path | None, typer.Option(help="Settings, a YAML file; default: recipes/default.yaml.")] = None,
    store: StoreOption = None,
    progress: How = ProgressForm.BAR,
    as_json: Json = False,
) -> None:
    """Learn the consented corrections into a new adapter. The same command goes on with an interrupted training."""
    require("train", "learning an adapter")
    from fourfold.assistant.refine.steps import train_adapter

    corrections, registry = _both(store)
    directory = _model(model, any_architecture=True)
    with telling(progress) as tell:
        revision = train_adapter(
            corrections, registry, directory, max_steps=max_steps, seed=seed, recipe=recipe, on_progress=tell
        )
    training = json.loads((registry.path(revision.id) / "training.json").read_text(encoding="utf-8"))
    to_review = training["corrections"]["doubtful"]
    lines = [f"adapter {revision.id} learnt {len(revision.records)} corrections; next: fourfold refine gate"]
    lines += [f"left out, look at it: {item['id']}: {item['reason']}" for item in to_review]
    _print(as_json, {"revision": revision.id, **training}, "\n".join(lines))


@app.command()
def gate(
    revision: RevisionName = None,
    seed: Seed = 0,
    model: Model = None,
    endpoint: Annotated[
        str | None, typer.Option(help="A server that has the adapter, ours or vLLM's, to ask in place of this machine.")
    ] = None,
    served_model: Annotated[str | None, typer.Option(help="What that server calls the adapter.")] = None,
    served_baseline: Annotated[
        str | None,
        typer.Option(help="And what answers now; default: the promoted adapter, or its first model."),
    ] = None,
    api_key: Annotated[str, typer.Option(envvar="FOURFOLD_API_KEY", help="For the endpoint.")] = "none",
    store: StoreOption = None,
    progress: How = ProgressForm.BAR,
    as_json: Json = False,
) -> None:
    """Measure an adapter against the current one: corrected items, held-out ones of their kind, everything else."""
    require("train", "measuring an adapter")
    if (endpoint is None) != (served_model is None) or (served_baseline and endpoint is None):
        raise UserError("--endpoint and --served-model go together, and --served-baseline with them")
    corrections, registry = _both(store)
    server = None if endpoint is None else (endpoint, served_baseline, served_model, api_key)
    with telling(progress) as tell:
        directory = _model(model, any_architecture=server is not None)
        measured = _measure(corrections, registry, registry.find(revision), directory, seed, tell, server)
    assert measured.gate is not None
    verdict = "may be promoted" if measured.gate.promotable else "is refused"
    text = f"adapter {measured.id} {verdict}; report: {measured.gate.report}"
    reasons = [f"  {reason}" for reason in measured.gate.summary.get("reasons", ())]
    _print(as_json, {"revision": measured.id, **asdict(measured.gate)}, "\n".join([text, *reasons]))


@app.command()
def promote(
    revision: RevisionName = None,
    force: Annotated[bool, typer.Option("--force", help="Although the gate refused or was not asked.")] = False,
    endpoint: Endpoint = None,
    admin_key: AdminKey = None,
    strength: Annotated[float, typer.Option(min=0, max=1, help="Of the adapter in the running server.")] = 1.0,
    store: StoreOption = None,
    as_json: Json = False,
) -> None:
    """Make an adapter current, if the gate let it pass; with --endpoint a running server answers with it at once."""
    from fourfold.assistant.refine.steps import promote as promote_step

    corrections, registry = _both(store)
    state = promote_step(
        corrections,
        registry,
        registry.find(revision),
        force=force,
        server=_server(endpoint, admin_key),
        lora_scale=strength,
    )
    _print_current(as_json, state, endpoint)


@app.command()
def rollback(
    endpoint: Endpoint = None, admin_key: AdminKey = None, store: StoreOption = None, as_json: Json = False
) -> None:
    """Put back what was current before the last promotion."""
    from fourfold.assistant.refine.steps import roll_back

    _print_current(as_json, roll_back(*_both(store), server=_server(endpoint, admin_key)), endpoint)


@app.command()
def history(store: StoreOption = None, as_json: Json = False) -> None:
    """List the adapters with their lineage, and what happened to them."""
    corrections, registry = _both(store)
    state = registry.state()
    forgotten = set(corrections.forgotten())
    if as_json:
        revisions = [
            {**asdict(r), "forgotten_records": sorted(forgotten & set(r.records))} for r in state.revisions.values()
        ]
        values = {"current": state.current, "previous": state.previous, "promoted": list(state.promoted)}
        _print(True, {**values, "revisions": revisions, "events": [asdict(event) for event in state.events]}, "")
        return
    if not state.revisions:
        print("no adapter was trained yet")
    for entry in state.revisions.values():
        mark = "*" if entry.id == state.current else "-" if entry.removed else " "
        gate = "not measured" if entry.gate is None else "passed" if entry.gate.promotable else "refused"
        print(
            f"{mark} {entry.id}  {_when(entry.created)}  {len(entry.records)} corrections (data {entry.data[:12]}), "
            f"on {entry.parent or 'the model as shipped'}, gate: {gate}{', removed' if entry.removed else ''}"
        )
        if held := forgotten & set(entry.records):
            print(f"    {'had' if entry.removed else 'still holds'} what was forgotten: {', '.join(sorted(held))}")
    for event in state.events:
        forced = " (forced)" if event.forced else ""
        print(f"{_when(event.time)}  {event.what} {event.revision or 'to the model as shipped'}{forced}")


@app.command()
def forget(
    record: Annotated[str, typer.Argument(help="Id of the correction; its first digits suffice.")],
    rebuild: Annotated[
        bool, typer.Option(help="Train, gate and promote without it, where the current adapter has learnt it.")
    ] = True,
    max_steps: MaxSteps = None,
    seed: Seed = 0,
    model: Model = None,
    endpoint: Endpoint = None,
    admin_key: AdminKey = None,
    store: StoreOption = None,
    progress: How = ProgressForm.BAR,
    as_json: Json = False,
) -> None:
    """Delete a correction for good, and the adapters that have learnt it."""
    from fourfold.assistant.refine.steps import drop_current, promote, train_adapter
    from fourfold.assistant.refine.steps import forget as forget_step

    corrections, registry = _both(store)
    id = _record(corrections, record)
    held_by = forget_step(corrections, registry, id)
    told: dict[str, Any] = {"forgotten": id, "still_in": held_by, "rebuilt": None, "current": registry.state().current}
    if held_by is None:
        _print(as_json, told, f"{id} is forgotten; no adapter in use has learnt it")
        return
    if not rebuild:
        text = (
            f"{id} is forgotten, but the current adapter {held_by} still holds what it learnt from it; "
            "train, gate and promote another one, or roll back, and it is deleted"
        )
        _print(as_json, told, text)
        return
    server = _server(endpoint, admin_key)
    reason, directory = "the gate refused the rebuilt one", _model(model)
    with telling(progress) as tell:
        try:
            rebuilt = train_adapter(corrections, registry, directory, max_steps=max_steps, seed=seed, on_progress=tell)
        except UserError as error:  # nothing is left to learn
            rebuilt, reason = None, str(error)
        if rebuilt is not None:
            rebuilt = _measure(corrections, registry, rebuilt.id, directory, seed, tell)
    if rebuilt is not None and rebuilt.gate is not None and rebuilt.gate.promotable:
        state = promote(corrections, registry, rebuilt.id, server=server)
        text = f"{id} is forgotten; the adapter {rebuilt.id}, trained without it, replaces {held_by}, which is deleted"
    else:
        state = drop_current(corrections, registry, server=server)
        now = f"the adapter {state.current}" if state.current else "the model as it was shipped"
        text = f"{id} is forgotten and the adapter {held_by} deleted; current is {now} ({reason})"
    told |= {"still_in": None, "rebuilt": rebuilt and rebuilt.id, "current": state.current}
    _print(as_json, told, text)


def _measure(
    store: "CorrectionStore",
    registry: "Registry",
    revision: str,
    model: Path,
    seed: int,
    tell: OnProgress,
    server: tuple[str, str | None, str | None, str] | None = None,
) -> "Revision":
    """Gate a revision; `server`: endpoint, names of baseline and adapter there, and key."""
    from fourfold.assistant.refine.registry import SERVED_NAME
    from fourfold.assistant.refine.steps import gate_baseline
    from fourfold.eval.endpoint import EndpointModel
    from fourfold.eval.gate import gate as measure

    baseline, served = gate_baseline(store, registry, revision), None
    if server is not None:
        url, before, after, key = server
        if before is None and baseline is not None:
            if baseline.name != registry.state().current:
                raise UserError(f"say what the server calls the adapter {baseline.name}, with --served-baseline")
            before = SERVED_NAME
        served = (EndpointModel([url], before, api_key=key), EndpointModel([url], after, api_key=key))
    result = measure(
        registry.directory,
        model,
        registry.path(revision),
        out=registry.gate_directory(revision),
        baseline=baseline,
        served=served,
        seed=seed,
        on_progress=tell,
    )
    return registry.gated(revision, promotable=result.promotable, summary=result.summary(), report=result.report)


def _server(endpoint: str | None, admin_key: str | None) -> "ServerAdmin | None":
    from fourfold.assistant.refine.deploy import ServerAdmin

    return ServerAdmin(endpoint, admin_key) if endpoint else None


def _store(directory: Path | None) -> "CorrectionStore":
    from fourfold.assistant.refine.store import CorrectionStore

    return CorrectionStore(store_directory(directory))


def _both(directory: Path | None) -> "tuple[CorrectionStore, Registry]":
    from fourfold.assistant.refine.registry import Registry

    store = _store(directory)
    return store, Registry(store.directory)


def _model(name: str | None, *, any_architecture: bool = False) -> Path:
    from fourfold.assistant.checkpoints.resolve import resolve_model

    return resolve_model(name, any_architecture=any_architecture)


def _record(store: "CorrectionStore", name: str) -> str:
    found = [correction.id for correction in store.list() if name and correction.id.startswith(name)]
    if len(found) > 1 and name not in found:
        raise UserError(f"several corrections are called {name!r}: {', '.join(found[:5])}")
    return name if len(found) != 1 else found[0]


def _print_current(as_json: bool, state: "State", endpoint: str | None) -> None:
    current = f"the adapter {state.current}" if state.current else "the model as it was shipped, without an adapter"
    where = f" (here and in {endpoint})" if endpoint else ""
    _print(as_json, {"current": state.current, "previous": state.previous}, f"current is {current}{where}")


def _print(as_json: bool, values: dict[str, Any], text: str) -> None:
    print(json.dumps(values, ensure_ascii=False) if as_json else text)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
