"""Trainings, killed again and again: what comes out is to the bit what comes out undisturbed."""

import json
import random
from pathlib import Path
from typing import Any

from tests.chaos.process import Process, command, count_operations, kills
from tests.chaos.rounds import Outcome

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "assistant" / "training" / "recipes" / "tiny.yaml"


def make_checkpoint(directory: Path) -> None:
    """The tiny random checkpoint, in a process of its own: nothing here may have started threads before it forks."""

    def make() -> None:
        from tests.tiny import save_tiny_checkpoint

        save_tiny_checkpoint(directory)

    if not directory.exists():
        assert Process(make, directory.with_name("checkpoint.txt")).wait() == 0


class TrainingKills:
    name = "training"

    def __init__(self, shared: Path) -> None:
        self._shared = shared
        self._cost: tuple[float, int] | None = None

    def round(self, dice: random.Random, folder: Path) -> Outcome:
        outcome, log, checkpoint = Outcome(), folder / "log.txt", self._shared / "tiny"
        make_checkpoint(checkpoint)
        undisturbed = self._shared / "trained"
        if self._cost is None:
            work = command(["train", str(RECIPE), "--base", str(checkpoint), "--out", str(undisturbed)])
            seconds, operations, code = count_operations(work, log)
            outcome.expect(code == 0, f"an undisturbed training failed: {log.read_text()[-400:]}")
            self._cost = seconds, operations
        killed = folder / "killed"
        work = command(["train", str(RECIPE), "--base", str(checkpoint), "--out", str(killed)])
        for _ in range(dice.randrange(2, 6)):
            process = Process(work, log, kills(dice, *self._cost))
            code = process.kill_when_due()
            outcome.kills["training"] += code == -9
            outcome.expect(code in (0, -9), f"it ended with {code}: {process.said()[-600:]}")
        process = Process(work, log)
        outcome.expect(process.wait() == 0, f"the next start needed help: {process.said()[-600:]}")
        if not outcome.problems:
            outcome.expect(told(killed) == told(undisturbed), "its log tells of other steps, or of some twice")
            outcome.expect(same(killed, undisturbed), "its weights or its optimizer are others")
            left = sorted(path.name for path in killed.iterdir() if path.name.startswith("."))
            outcome.expect(not left, f"left behind: {left}")
        return outcome


def told(directory: Path) -> list[Any]:
    """Steps with their losses, and what was measured."""
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("loss"), line.get("held_out")) for line in lines]


def same(one: Path, other: Path) -> bool:
    """Whether two runs ended in the same state, to the bit; looked at in a process of its own."""

    def compare() -> int:
        import torch

        states = [torch.load(directory / "state.pt", weights_only=True) for directory in (one, other)]
        flat = [_tensors(state["trained"]) | _tensors(state["optimizer"]) for state in states]
        equal = flat[0].keys() == flat[1].keys() and all(torch.equal(flat[0][name], flat[1][name]) for name in flat[0])
        bridges = [(directory / "bridge" / "projector.safetensors").read_bytes() for directory in (one, other)]
        return 0 if equal and bridges[0] == bridges[1] else 3

    return Process(compare, one.with_name("compared.txt")).wait() == 0


def _tensors(value: Any, name: str = "") -> dict[str, Any]:
    if hasattr(value, "shape"):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {key: tensor for k, v in items for key, tensor in _tensors(v, f"{name}.{k}").items()}
