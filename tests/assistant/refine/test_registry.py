"""The registry: lineage, promotion and rollback, killed at every step, changed by several at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fourfold.assistant.refine.adapter import revision_of, scaled_adapter
from fourfold.assistant.refine.registry import Registry
from fourfold.prompts.errors import UserError

ROOT = Path(__file__).parents[3]


def built(directory: Path, seed: int = 0) -> Path:
    """Something that looks like an adapter."""
    directory.mkdir(parents=True)
    torch.manual_seed(seed)
    weights = {f"base_model.model.layer.lora_{side}.weight": torch.randn(4, 4).half() for side in "AB"}
    save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    (directory / "adapter_config.json").write_text('{"r": 4}')
    (directory / "training.json").write_text("{}")
    return directory


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "store")


def train(registry: Registry, seed: int, *records: str) -> str:
    place = built(registry.directory / "adapters" / f".new{seed}", seed)
    return registry.register(place, base="base", data=f"data{seed}", records=records).id


def test_promote_and_roll_back_along_the_lineage(registry: Registry) -> None:
    assert registry.state().current is None
    first = train(registry, 1, "a")
    registry.gated(first, promotable=True, summary={"target": 12.5}, report=Path("gate.html"))
    assert registry.promote(first).current == first
    second = train(registry, 2, "a", "b")
    registry.gated(second, promotable=False, summary={}, report=None)
    with pytest.raises(UserError, match="the gate refused"):
        registry.promote(second)
    state = registry.promote(second, force=True)
    assert (state.current, state.previous) == (second, first)
    assert registry.promote(second, force=True).promoted == (first, second)  # again changes nothing
    again = Registry(registry.directory).state()
    assert again.revisions[second].parent == first
    assert again.revisions[first].parent is None
    assert again.revisions[second].records == ("a", "b")
    assert (again.revisions[first].data, again.revisions[first].base) == ("data1", "base")
    assert again.revisions[first].gate is not None
    assert (again.revisions[first].gate.summary, again.revisions[first].gate.report) == ({"target": 12.5}, "gate.html")
    assert registry.rollback().current == first
    assert registry.rollback().current is None
    with pytest.raises(UserError, match="nothing to roll back"):
        registry.rollback()
    events = [(event.what, event.revision, event.forced) for event in registry.state().events]
    assert events == [
        ("trained", first, False),
        ("gated", first, False),
        ("promoted", first, False),
        ("trained", second, False),
        ("gated", second, False),
        ("promoted", second, True),
        ("promoted", second, True),
        ("rolled back", first, False),
        ("rolled back", None, False),
    ]
    plain = json.loads((registry.directory / "registry.json").read_text())
    assert (plain["current"], plain["previous"]) == (None, None)


def test_without_a_measurement_nothing_is_promoted(registry: Registry) -> None:
    revision = train(registry, 1)
    with pytest.raises(UserError, match="was not measured"):
        registry.promote(revision)
    other = train(registry, 2)
    registry.gated(other, promotable=True, summary={}, report=None)
    with pytest.raises(UserError, match="was not measured"):  # a gate counts for its own revision only
        registry.promote(revision)
    with pytest.raises(UserError, match="no adapter is called"):
        registry.promote("0" * 12)


def test_files_are_closed_to_writing_and_changes_are_noticed(registry: Registry) -> None:
    revision = train(registry, 1)
    path = registry.path(revision)
    assert path.name == revision == revision_of(path)
    assert all(file.stat().st_mode & 0o222 == 0 for file in path.iterdir())
    config = path / "adapter_config.json"
    config.chmod(0o644)
    config.write_text('{"r": 8}')
    with pytest.raises(UserError, match="was changed"):
        registry.path(revision)
    with pytest.raises(UserError, match="was changed"):
        registry.promote(revision, force=True)
    assert train(registry, 1) == revision  # trained again, the files are whole again
    assert registry.path(revision) == path
    assert [event.what for event in registry.state().events] == ["trained"]


def test_a_server_comes_before_the_registry_and_sees_checked_files(registry: Registry) -> None:
    first, second = train(registry, 1), train(registry, 2)
    told: list[Path | None] = []

    def refuse(directory: Path | None) -> None:
        raise UserError("the server refused")

    registry.promote(first, force=True, deploy=told.append)
    with pytest.raises(UserError, match="the server refused"):
        registry.promote(second, force=True, deploy=refuse)
    assert registry.state().promoted == (first,)
    registry.promote(second, force=True, deploy=told.append)
    registry.remove([first], deploy=told.append)  # is not the current one
    for change in (registry.rollback, lambda deploy: registry.remove([second], deploy=deploy)):
        with pytest.raises(UserError, match="the server refused"):
            change(deploy=refuse)
    assert registry.state().promoted == (second,)
    registry.rollback(deploy=told.append)
    adapters = registry.directory / "adapters"
    assert told == [adapters / first, adapters / second, None]


def test_names_may_be_shortened(registry: Registry) -> None:
    with pytest.raises(UserError, match="no adapter was trained yet"):
        registry.find(None)
    first, second = train(registry, 1), train(registry, 2)
    assert registry.find(None) == second
    assert registry.find(first[:5]) == registry.find(first) == first
    for wrong in ("", "zz"):
        with pytest.raises(UserError, match="there are"):
            registry.find(wrong)


def test_what_learnt_from_a_forgotten_record_is_removed_for_good(registry: Registry) -> None:
    first, second, third = train(registry, 1, "a"), train(registry, 2, "b"), train(registry, 3, "a", "c")
    for revision in (first, second, first, third, first):
        registry.promote(revision, force=True)
    report = registry.gate_directory(second) / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("pictures")
    derived = scaled_adapter(registry.path(second), 0.5)
    assert registry.holding(["b", "x"]) == [second]
    state = registry.remove([second])
    assert state.promoted == (first, third, first)
    assert not (registry.directory / "adapters" / second).exists()
    assert not report.exists()
    assert not derived.exists()
    assert registry.holding(["b"]) == []
    assert registry.state().revisions[second].removed
    for refused in (registry.path, registry.promote):
        with pytest.raises(UserError, match=r"was removed|no adapter"):
            refused(second)
    with pytest.raises(UserError, match="forgotten"):
        train(registry, 2, "b")
    assert registry.remove([third]).promoted == (first,)


def test_strength_lies_between_the_model_and_the_adapter(registry: Registry) -> None:
    revision = train(registry, 1)
    whole = load_file(registry.path(revision) / "adapter_model.safetensors")
    assert scaled_adapter(registry.path(revision), 1) == registry.path(revision)
    for strength in (0, 0.25, 0.5):
        directory = scaled_adapter(registry.path(revision), strength)
        assert scaled_adapter(registry.path(revision), strength) == directory
        part = load_file(directory / "adapter_model.safetensors")
        for name, tensor in whole.items():
            expected = tensor * strength if "lora_B" in name else tensor
            assert torch.equal(part[name], expected)  # powers of two are exact in float16
        assert (directory / "adapter_config.json").read_text() == '{"r": 4}'
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="between 0 and 1"):
            scaled_adapter(registry.path(revision), wrong)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "revisions": [{}], "promoted": []}'])
def test_a_damaged_file_is_named(registry: Registry, text: str) -> None:
    train(registry, 1)
    (registry.directory / "registry.json").write_text(text)
    with pytest.raises(UserError, match=r"registry\.json cannot be read"):
        registry.state()


def test_a_newer_file_is_left_alone(registry: Registry) -> None:
    registry.directory.mkdir()
    (registry.directory / "registry.json").write_text('{"format": 2}')
    with pytest.raises(UserError, match="newer version"):
        registry.rollback()
    assert (registry.directory / "registry.json").read_text() == '{"format": 2}'


# Runs one change over and over from the same start, in children that are killed before their 1st, 2nd, 3rd ... change
# to the file system, until one gets through. Python itself reports these changes to an audit hook.
KILLER = """
import json, os, shutil, signal, sys
from pathlib import Path
from fourfold.assistant.refine.registry import Registry

start, work, change = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
ids = sys.argv[4:]
MUTATIONS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree"}

def run(left):
    def hook(event, args):
        nonlocal left
        if event == "open" and not (isinstance(args[1], str) and set(args[1]) & set("wxa")):
            return
        if event == "open" or event in MUTATIONS:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    registry = Registry(work)
    sys.addaudithook(hook)
    if change == "register":
        registry.register(work / "adapters" / ".new9", base="b", data="d", records=["a"])
    elif change == "promote":
        registry.promote(ids[1], force=True)
    elif change == "rollback":
        registry.rollback()
    elif change == "remove":
        registry.remove([ids[0]])

step = 0
while True:
    step += 1
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(start, work)
    child = os.fork()
    if child == 0:
        run(step)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    state = Registry(work).state()
    there = sorted(p.name for p in (work / "adapters").iterdir())
    repeated = "done"
    if os.WIFSIGNALED(status):
        child = os.fork()
        if child == 0:
            try:
                run(10**9)
            except ValueError as error:
                print(json.dumps({"error": str(error)}), file=sys.stderr)
                os._exit(3)
            os._exit(0)
        _, again = os.waitpid(child, 0)
        repeated = "done" if again == 0 else "refused"
    after = Registry(work).state()
    print(json.dumps({
        "killed": os.WIFSIGNALED(status), "promoted": state.promoted, "known": list(state.revisions),
        "removed": [r.id for r in state.revisions.values() if r.removed], "there": there,
        "repeated": repeated, "after": after.promoted, "after_known": list(after.revisions),
        "after_there": sorted(p.name for p in (work / "adapters").iterdir()),
        "leftovers": sorted(p.name for p in work.iterdir() if p.name.startswith(".")),
    }), flush=True)
    if not os.WIFSIGNALED(status):
        break
"""


def killed_at_every_step(registry: Registry, work: Path, change: str, ids: list[str]) -> list[dict]:
    command = [sys.executable, "-c", KILLER, str(registry.directory), str(work), change, *ids]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["killed"] for line in lines] == [True] * (len(lines) - 1) + [False]
    return lines


@pytest.fixture
def promoted_twice(registry: Registry) -> tuple[Registry, list[str]]:
    ids = [train(registry, 1, "a"), train(registry, 2, "b")]
    for id in ids:
        registry.promote(id, force=True)
    built(registry.directory / "adapters" / ".new9", 9)
    return registry, ids


def test_killed_at_every_step_of_a_registration(promoted_twice: tuple[Registry, list[str]], tmp_path: Path) -> None:
    registry, ids = promoted_twice
    new = revision_of(registry.directory / "adapters" / ".new9")
    lines = killed_at_every_step(registry, tmp_path / "work", "register", ids)
    assert len(lines) > 5
    for line in lines:
        assert line["promoted"] == ids
        assert line["known"] in (ids, [*ids, new])
        if new in line["known"]:  # never known before its files are in place
            assert new in line["there"]
        if line["repeated"] == "done":
            assert line["after_known"] == [*ids, new]
        else:  # its files were moved already; they are taken over by the next training, which gives the same
            assert new in line["after_there"]
            assert ".new9" not in line["after_there"]
    assert lines[-1]["known"] == [*ids, new]


def test_files_that_were_moved_before_the_kill_are_taken_over(registry: Registry) -> None:
    place = built(registry.directory / "adapters" / ".new1", 1)
    orphan = registry.directory / "adapters" / revision_of(place)
    place.rename(orphan)
    assert train(registry, 1) == orphan.name
    assert sorted(path.name for path in orphan.parent.iterdir()) == [orphan.name]


@pytest.mark.parametrize("change", ["promote", "rollback", "remove"])
def test_killed_at_every_step_of_a_change(
    promoted_twice: tuple[Registry, list[str]], tmp_path: Path, change: str
) -> None:
    registry, (first, second) = promoted_twice
    if change == "promote":
        registry.rollback()
    before, after = {
        "promote": ([first], [first, second]),
        "rollback": ([first, second], [first]),
        "remove": ([first, second], [second]),
    }[change]
    lines = killed_at_every_step(registry, tmp_path / "work", change, [first, second])
    assert len(lines) >= 3
    for line in lines:
        assert line["promoted"] in (before, after)
        assert all(id in line["there"] for id in line["promoted"] if id not in line["removed"])
        if change == "rollback":  # it may have been done already: then the second one goes one further
            assert line["after"] in (after, []) if line["killed"] else line["after"] == after
        else:
            assert line["after"] == after
        assert line["leftovers"] == []
        if change == "remove":
            assert first not in line["after_there"]
    assert lines[-1]["promoted"] == after


WRITER = """
import sys
from fourfold.assistant.refine.registry import Registry
registry = Registry(sys.argv[1])
for _ in range(10):
    registry.promote(sys.argv[2], force=True)
"""


def test_processes_change_it_beside_each_other(registry: Registry) -> None:
    ids = [train(registry, seed) for seed in range(3)]
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(registry.directory), id], cwd=ROOT, stderr=subprocess.PIPE)
        for id in ids
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    events = [event for event in registry.state().events if event.what == "promoted"]
    assert len(events) == 30  # no change was lost to another one
