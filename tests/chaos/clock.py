"""A clock that jumps back and forth by up to a year while work goes on."""

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fourfold.assistant.refine.registry import Registry
from fourfold.assistant.refine.store import CorrectionStore
from tests.assistant.refine.corrections import correction, encoded, picture
from tests.chaos.evaluation import QUESTIONS, Served, make_pope, words
from tests.chaos.process import Process, command
from tests.chaos.refinement import RECIPE
from tests.chaos.rounds import Outcome
from tests.chaos.stores import Stores, script, write
from tests.chaos.training import make_checkpoint

_YEAR = 365 * 86400


def jumping(seed: float, work: Callable[[], Any]) -> Callable[[], Any]:
    """The same work where `time.time` jumps at every tenth look, on average."""

    def done() -> Any:
        dice, real, offset = random.Random(seed), time.time, 0.0

        def now() -> float:
            nonlocal offset
            if dice.random() < 0.1:
                offset = dice.uniform(-_YEAR, _YEAR)
            return real() + offset

        time.time = now
        return work()

    return done


class ClockJumps:
    name = "clock"

    def __init__(self, shared: Path) -> None:
        self._shared = shared

    def round(self, dice: random.Random, folder: Path) -> Outcome:
        outcome = Outcome()
        dice.choice([self._stores, self._evaluation, self._refinement])(dice, folder, outcome)
        return outcome

    def _stores(self, dice: random.Random, folder: Path, outcome: Outcome) -> None:
        todo, acknowledged = script(dice), folder / "acknowledged"
        acknowledged.write_bytes(b"")
        undisturbed = Stores(folder / "undisturbed")
        for operation in todo:
            undisturbed.do(operation)
        (folder / "jumping").mkdir()
        work = jumping(dice.random(), partial(write, folder / "jumping", todo, acknowledged))
        process = Process(work, folder / "log.txt")
        outcome.expect(process.wait() == 0, f"the clock jumped: {process.said()[-500:]}")
        outcome.faults["clock jumps: stores"] += 1
        same = Stores(folder / "jumping").state() == undisturbed.state()
        outcome.expect(same, "with a clock that jumps the stores hold something else")

    def _evaluation(self, dice: random.Random, folder: Path, outcome: Outcome) -> None:
        make_pope(folder / "pope")
        endpoint = Served(folder)
        try:
            work = jumping(dice.random(), command(words(folder / "pope", endpoint.url)))
            process = Process(work, folder / "log.txt")
            outcome.expect(process.wait() == 0, f"the clock jumped: {process.said()[-500:]}")
            outcome.expect(endpoint.asked.total() == QUESTIONS, f"{endpoint.asked.total()} questions were asked")
        finally:
            endpoint.stop()
        outcome.faults["clock jumps: evaluation"] += 1

    def _refinement(self, dice: random.Random, folder: Path, outcome: Outcome) -> None:
        make_checkpoint(self._shared / "tiny")
        (folder / "recipe.yaml").write_text(RECIPE)
        kept = CorrectionStore(folder / "store")
        for number in range(4):
            kept.add(correction(number, id=f"colour-{number}"), encoded(picture(number)))
        shared = ["--store", str(folder / "store")]
        model = ["--recipe", str(folder / "recipe.yaml"), "--model", str(self._shared / "tiny")]
        for verb, given in (("train", model), ("promote", ["--force"]), ("rollback", []), ("promote", ["--force"])):
            process = Process(jumping(dice.random(), command(["refine", verb, *given, *shared])), folder / "log.txt")
            outcome.expect(process.wait() == 0, f"{verb}, the clock jumped: {process.said()[-500:]}")
            outcome.faults[f"clock jumps: refine {verb}"] += 1
        state = Registry(folder / "store").state()
        events = [event.what for event in state.events]
        outcome.expect(events == ["trained", "promoted", "rolled back", "promoted"], f"events: {events}")
        outcome.expect(state.current, "nothing is promoted")
