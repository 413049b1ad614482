"""`fourfold refine`, verb after verb, killed again and again."""

import json
import random
from collections.abc import Callable
from pathlib import Path

from fourfold.assistant.refine.registry import Registry, State
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.transfer import export_corrections
from tests.assistant.refine.corrections import correction, encoded, picture
from tests.chaos.process import Process, command, count_operations, kills
from tests.chaos.rounds import Outcome
from tests.chaos.training import make_checkpoint

CORRECTIONS = 6
RECIPE = """\
lora: {rank: 4, alpha: 8}
lora_lr: 5e-3
least_steps: 8
most_steps: 8
batch_size: 4
share: 0.5
replay: {seed: 1, scenes: 6, scenes_per_epoch: 6, turns: 2, multi_turn: 0.0, scene_tasks: {existence: 1, colour: 1}}
replay_images: 4
held_out: 0.25
"""
_QUICK = {"import": 0.3, "promote": 0.3, "rollback": 0.3, "forget": 0.5}  # seconds within which they are killed


class RefinementKills:
    name = "refinement"

    def __init__(self, shared: Path) -> None:
        self._shared = shared
        self._costs: dict[str, tuple[float, int]] = {}
        self._revision = ""

    def round(self, dice: random.Random, folder: Path) -> Outcome:
        outcome, log = Outcome(), folder / "log.txt"
        self._prepare(outcome, log)
        store = folder / "store"
        corrections, registry = CorrectionStore(store), Registry(store)

        def until_done(verb: str, words: list[str], done: Callable[[], object], whole: Callable[[], str]) -> None:
            """Kill a verb some times, run it to its end, and see after each that what is there is whole."""
            work = command(["refine", verb, *words, "--store", str(store)])
            for _ in range(dice.randrange(1, 4)):
                process = Process(work, log, kills(dice, *self._costs[verb]))
                code = process.kill_when_due()
                outcome.kills[f"refinement: {verb}"] += code == -9
                happened = bool(done())
                may_fail = happened and verb in ("rollback", "forget")  # told that there is nothing left to do
                outcome.expect(code in (0, -9) or may_fail, f"{verb} ended with {code}: {process.said()[-500:]}")
                trouble = whole()
                outcome.expect(not trouble, f"after {verb} was killed: {trouble}")
                if happened and verb == "rollback":
                    return  # once more would roll back once more
            process = Process(work, log)
            code = process.wait()
            outcome.expect(code == 0, f"{verb} needed help after kills, {code}: {process.said()[-600:]}")
            outcome.expect(done(), f"{verb} did not do it")

        def whole() -> str:
            count, state = corrections.count(), registry.state()
            if count not in (0, CORRECTIONS, CORRECTIONS - 1):
                return f"{count} corrections"
            return _trouble(registry, state)

        exported = str(self._shared / "corrections.jsonl")
        until_done("import", [exported], lambda: corrections.count() == CORRECTIONS, whole)
        model = ["--model", str(self._shared / "tiny")]
        training = [*model, "--recipe", str(self._shared / "recipe.yaml"), "--seed", "3"]
        until_done("train", training, lambda: registry.state().revisions, whole)
        state = registry.state()
        outcome.expect(list(state.revisions) == [self._revision], f"trained {list(state.revisions)}")
        outcome.expect([event.what for event in state.events] == ["trained"], f"events: {state.events}")
        left = [path.name for path in (store / "adapters").iterdir() if path.name != self._revision]
        outcome.expect(not left, f"left behind by trainings: {left}")
        until_done("promote", ["--force"], lambda: registry.state().current == self._revision, whole)
        until_done("rollback", [], lambda: registry.state().current is None, whole)
        until_done("promote", ["--force"], lambda: registry.state().current == self._revision, whole)
        [record] = [c for c in corrections.list() if c.id == "colour-1"]
        forget = [record.id, "--no-rebuild", *model]

        def forgotten() -> bool:
            return record.id in corrections.forgotten() and record.id not in {c.id for c in corrections.list()}

        until_done("forget", forget, forgotten, whole)
        until_done("rollback", [], lambda: registry.state().current is None, whole)
        outcome.expect(not (store / "adapters" / self._revision).exists(), "the adapter that learnt it is still there")
        return outcome

    def _prepare(self, outcome: Outcome, log: Path) -> None:
        """What every round needs, and what each verb costs, from one that nobody disturbs."""
        if self._revision:
            return
        make_checkpoint(self._shared / "tiny")
        (self._shared / "recipe.yaml").write_text(RECIPE)
        store = self._shared / "store"
        kept = CorrectionStore(store)
        if not kept.count():
            for number in range(CORRECTIONS):
                kept.add(correction(number, id=f"colour-{number}"), encoded(picture(number)))
            export_corrections(kept, self._shared / "corrections.jsonl")
        words = ["--recipe", str(self._shared / "recipe.yaml"), "--model", str(self._shared / "tiny"), "--seed", "3"]
        work = command(["refine", "train", *words, "--store", str(store)])
        seconds, operations, code = count_operations(work, log)
        outcome.expect(code == 0, f"an undisturbed refinement failed: {log.read_text()[-400:]}")
        self._costs = {"train": (seconds, operations), **{verb: (most, 8) for verb, most in _QUICK.items()}}
        [self._revision] = Registry(store).state().revisions


def _trouble(registry: Registry, state: State) -> str:
    """What is wrong with a registry."""
    for revision in state.revisions.values():
        if not revision.removed:
            registry.path(revision.id)  # raises where its files are missing or changed
    unknown = [id for id in state.promoted if id not in state.revisions]
    doubled = [one for one, other in zip(state.promoted, state.promoted[1:], strict=False) if one == other]
    parts = [path.name for path in registry.directory.glob(".registry.*")]
    text = json.dumps({"unknown": unknown, "doubled": doubled}) if unknown or doubled else ""
    return text + (f" {len(parts)} parts" if len(parts) > 1 else "")
