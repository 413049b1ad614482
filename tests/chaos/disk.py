"""A disk that is full, one that can no longer be written, and files that belong to somebody else."""

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fourfold.assistant.refine.registry import Registry
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError
from tests.assistant.refine.corrections import correction, encoded, picture
from tests.chaos.evaluation import QUESTIONS, Served, make_pope, words
from tests.chaos.process import Process, command
from tests.chaos.refinement import RECIPE as REFINEMENT
from tests.chaos.rounds import Outcome
from tests.chaos.stores import Stores, script, write
from tests.chaos.training import RECIPE, make_checkpoint, told

NOBODY = 65534


@contextlib.contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A file system in memory of so many MiB.

    Raises:
        PermissionError: only root may make one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "chaos", str(folder)], check=False)
    if mounted.returncode:
        raise PermissionError("a small disk takes root, and leave to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """A file that takes all room but so many bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 * 2**10))
    with ballast.open("r+b") as file:
        file.truncate(max(0, ballast.stat().st_size - leave))
    return ballast


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


class DiskFaults:
    """Every kind of work on a disk that fills or is closed to writing: a sentence, nothing lost, and on it goes."""

    name = "disk"

    def __init__(self, shared: Path) -> None:
        self._shared = shared

    def round(self, dice: random.Random, folder: Path) -> Outcome:
        outcome = Outcome()
        if os.geteuid() != 0:
            outcome.faults["disk: not tried, it takes root"] += 1
            return outcome
        make_checkpoint(self._shared / "tiny")
        parts: list[Callable[..., None]] = [self._stores, self._evaluation, self._training, self._refinement]
        dice.choice(parts)(dice, folder, outcome)
        return outcome

    def _stores(self, dice: random.Random, folder: Path, outcome: Outcome) -> None:
        todo = script(dice)
        undisturbed = Stores(folder / "undisturbed")
        states = [undisturbed.state()]
        for operation in todo:
            undisturbed.do(operation)
            states.append(undisturbed.state())
        acknowledged = folder / "acknowledged"
        with small_disk(folder / "disk", 4) as disk:
            (disk / "data").mkdir()
            Stores(disk / "data")
            done, turn = 0, 0
            while done < len(todo):
                how = ("full", "read-only", "")[turn % 3]
                turn += 1
                ballast = fill(disk, dice.randrange(300_000)) if how == "full" else None
                if how == "read-only":
                    remount(disk, "ro")
                acknowledged.write_bytes(b"")
                few = todo[done : done + 12]
                process = Process(partial(write, disk / "data", few, acknowledged), folder / f"log{turn}.txt")
                code = process.wait()
                count = len(acknowledged.read_bytes())
                outcome.faults[f"disk {how}: stores" if how else "disk well again: stores"] += 1
                said = process.said().strip().splitlines()
                if code != 0:
                    outcome.expect(how, f"a healthy disk was refused: {said[-1:]}")
                    outcome.expect(
                        said and said[-1].startswith("fourfold.prompts.errors.UserError"), f"{how}: {said[-1:]}"
                    )
                if how == "read-only":
                    remount(disk, "rw")
                if ballast is not None:
                    ballast.unlink()
                done += count
                now = Stores(disk / "data")
                outcome.expect(not now.damage(), f"damaged: {now.damage()}")
                if now.state() != states[done]:
                    outcome.problems.append(f"{how}: the stores hold other than the {done} acknowledged steps")
                    return

    def _evaluation(self, dice: random.Random, folder: Path, outcome: Outcome) -> None:
        with small_disk(folder / "disk", 2) as disk:
            make_pope(disk)
            endpoint = Served(folder)
            work = command(words(disk, endpoint.url))
            try:
                fails(
                    work,
                    disk,
                    folder,
                    dice.choice(("full", "read-only")),
                    dice.randrange(20_000),
                    outcome,
                    "evaluation",
                )
                process = Process(work, folder / "again.txt")
                outcome.expect(process.wait() == 0, f"it did not go on: {process.said()[-500:]}")
            finally:
                endpoint.stop()
            lines = (disk / "out" / "answers.jsonl").read_text().splitlines()
            outcome.expect(len(lines) == QUESTIONS, f"{len(lines)} answers")

    def _training(self, dice: random.Random, folder: Path, outcome: Outcome) -> None:
        with small_disk(folder / "disk", 8) as disk:
            work = command(["train", str(RECIPE), "--base", str(self._shared / "tiny"), "--out", str(disk / "run")])
            fails(
                work, disk, folder, dice.choice(("full", "read-only")), dice.randrange(3_000_000), outcome, "training"
            )
            process = Process(work, folder / "again.txt")
            outcome.expect(process.wait() == 0, f"it did not go on: {process.said()[-500:]}")
            steps = [step for step, loss, _ in told(disk / "run") if loss is not None] if not outcome.problems else []
            outcome.expect(steps == list(range(1, 21)) or outcome.problems, f"steps: {steps}")

    def _refinement(self, dice: random.Random, folder: Path, outcome: Outcome) -> None:
        recipe = folder / "recipe.yaml"
        recipe.write_text(REFINEMENT)
        with small_disk(folder / "disk", 8) as disk:
            kept = CorrectionStore(disk / "store")
            for number in range(4):
                kept.add(correction(number, id=f"colour-{number}"), encoded(picture(number)))
            shared = ["--store", str(disk / "store")]
            train = ["refine", "train", "--recipe", str(recipe), "--model", str(self._shared / "tiny"), *shared]
            registry = Registry(disk / "store")
            for verb, given in (("train", train), ("promote", ["refine", "promote", "--force", *shared])):
                how, leave = dice.choice(("full", "read-only")), dice.randrange(400_000 if verb == "train" else 1)
                fails(command(given), disk, folder, how, leave, outcome, f"refine {verb}")
                process = Process(command(given), folder / f"{verb}.txt")
                outcome.expect(process.wait() == 0, f"{verb} did not go on: {process.said()[-500:]}")
            state = registry.state()
            outcome.expect(len(state.revisions) == 1 and state.current, f"registered: {list(state.revisions)}")
            outcome.expect(kept.count() == 4, "corrections were lost")


def fails(work: Callable[[], Any], disk: Path, folder: Path, how: str, leave: int, outcome: Outcome, what: str) -> None:
    """Work on a disk that has hardly any room or is closed: it may come to its end, or says why not in a sentence."""
    ballast = fill(disk, leave) if how == "full" else None
    if how == "read-only":
        remount(disk, "ro")
    process = Process(work, folder / f"{what.replace(' ', '-')}-{how}.txt")
    code = process.wait()
    outcome.faults[f"disk {how}: {what}"] += 1
    said = process.said()
    outcome.expect(
        code in (0, 2) and "Traceback" not in said, f"{what}, disk {how}, {leave} bytes left: {code} {said[-900:]}"
    )
    if code == 2:
        outcome.expect(said.strip().splitlines()[-1].startswith("fourfold: "), f"{what}, {how}: {said[-300:]}")
    if how == "read-only":
        remount(disk, "rw")
    if ballast is not None:
        ballast.unlink()


class ForeignFiles:
    """Files that may be read and not written, by somebody who is not root: the next who may, finds all of it."""

    name = "read-only files"

    def round(self, dice: random.Random, folder: Path) -> Outcome:
        outcome = Outcome()
        if os.geteuid() != 0:
            outcome.faults["read-only files: not tried, it takes root"] += 1
            return outcome
        folder.chmod(0o755)
        todo = script(dice, 15)
        stores = Stores(folder / "data")
        for operation in todo:
            stores.do(operation)
        before = stores.state()
        chosen = dice.choice(["history.sqlite", "refine/corrections.sqlite", "both"])
        files = [folder / "data" / name for name in ("history.sqlite", "refine/corrections.sqlite")]
        for path in [folder / "data", folder / "data" / "refine"]:
            path.chmod(dice.choice((0o755, 0o777)))
        for path in files:
            path.chmod(0o444 if chosen in ("both", path.relative_to(folder / "data").as_posix()) else 0o666)
        log = folder / "log.txt"
        log.touch()
        log.chmod(0o666)
        process = Process(partial(_as_nobody, folder / "data"), log)
        code = process.wait()
        outcome.faults["file read-only"] += 1
        outcome.expect(code == 0, f"as somebody else: {process.said()[-700:]}")
        outcome.expect(Stores(folder / "data").state() == before, "what was there changed")
        return outcome


def _as_nobody(data: Path) -> int:
    """Open and write the stores as a user who may not; a sentence for each refusal."""
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    signal.alarm(60)
    try:
        stores = Stores(data)
        stores.history.delete(stores.history.create("mine"))
    except UserError as error:
        print(error)
    return 0
