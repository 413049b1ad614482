"""The page's script, killed while it asks, answers and corrects; and the page's process with a server of its own."""

import os
import random
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import psutil

from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.serving.api.server import bind
from tests.chaos.process import Process, count_operations, kills
from tests.chaos.rounds import Outcome
from tests.chaos.stores import wait
from tests.chaos.training import make_checkpoint

TURNS = 4


def endpoint(port: int) -> None:
    """The scripted endpoint of the page's tests."""
    from tests.ui.scripted import Scripted

    Scripted(port, pause=0.01).serve_forever(0.05)


def sit(url: str, data: Path, acknowledged: Path) -> None:
    """One tab: goes on with the conversation that is there, asks, waits for answers, corrects every second one."""
    from fourfold.ui.state.settings import Settings, configure
    from fourfold.ui.state.turns import Turn, stored_turns
    from tests.ui.test_page import ask, keys, page, press, run, until

    handle = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(what: str, number: int) -> None:
        os.write(handle, f"{what} {number}\n".encode())

    settings = Settings(url, history=data / "history.sqlite", corrections=data / "refine")
    configure(settings)
    history = ChatHistory(settings.history)

    def turns() -> list[Turn]:
        return [turn for info in history.conversations() for turn in stored_turns(history.versions(info.id))]

    if turns():
        app = page(c=history.conversations()[0].id)
    else:
        app = press(page(), "sample-0-0")
        tell("asked", 0)
    while True:
        number, last = len(turns()) - 1, turns()[-1]
        if f"again-{last.position}" in keys(app):  # its process ended before there was an answer
            press(app, f"again-{last.position}")
        until(app, lambda app, at=last.position: f"down-{at}" in keys(app))  # type: ignore[misc]
        tell("answered", number)
        if number % 2 == 0 and "corrected" not in turns()[-1].figures:
            press(app, f"down-{last.position}")
            app.text_area(key=f"right-words-{last.position}").set_value(f"It is right {number}.")
            run(app)
            press(app, "right-save")
            tell("corrected", number)
        if number + 1 >= TURNS:
            return
        ask(app, f"What colour is the ball of thing {number + 1}?")
        tell("asked", number + 1)


class PageKills:
    name = "page"

    def __init__(self) -> None:
        self._cost: tuple[float, int] | None = None

    def round(self, dice: random.Random, folder: Path) -> Outcome:
        outcome, log = Outcome(), folder / "log.txt"
        with bind("127.0.0.1", 0) as listener:
            port = listener.getsockname()[1]
        served = Process(partial(endpoint, port), folder / "endpoint.txt")
        url = f"http://127.0.0.1:{port}/v1"
        try:
            if self._cost is None:
                seconds, operations, code = count_operations(
                    partial(sit, url, folder / "whole", folder / "whole.txt"), log
                )
                outcome.expect(code == 0, f"an undisturbed page failed: {log.read_text()[-600:]}")
                self._cost = seconds, operations
            data, acknowledged = folder / "killed", folder / "acknowledged.txt"
            work = partial(sit, url, data, acknowledged)
            for _ in range(dice.randrange(2, 6)):
                process = Process(work, log, kills(dice, *self._cost))
                code = process.kill_when_due()
                outcome.kills["page"] += code == -9
                outcome.expect(code in (0, -9), f"it ended with {code}: {process.said()[-700:]}")
                self._check(outcome, data, acknowledged)
            process = Process(work, log)
            outcome.expect(process.wait() == 0, f"the next start needed help: {process.said()[-700:]}")
            self._check(outcome, data, acknowledged)
            corrected = [c.chosen for c in CorrectionStore(data / "refine").list()]
            wanted = [f"It is right {number}." for number in range(0, TURNS, 2)]
            outcome.expect(sorted(corrected) == wanted, f"corrections at the end: {corrected}")
        finally:
            served.kill()
            served.wait()
        return outcome

    def _check(self, outcome: Outcome, data: Path, acknowledged: Path) -> None:
        """What was told to be there is there, once."""
        from fourfold.ui.state.turns import stored_turns

        told = set(acknowledged.read_text().splitlines()) if acknowledged.exists() else set()
        history = ChatHistory(data / "history.sqlite")
        talks = history.conversations()
        outcome.expect(len(talks) <= 1, f"{len(talks)} conversations")
        turns = [turn for info in talks for turn in stored_turns(history.versions(info.id))]
        outcome.expect(len({turn.words for turn in turns}) == len(turns), "a question is there twice")
        asked = sum(line.startswith("asked") for line in told)
        outcome.expect(asked <= len(turns) <= asked + 1, f"{asked} questions were asked, {len(turns)} are there")
        corrections = Counter(c.chosen for c in CorrectionStore(data / "refine").list())
        outcome.expect(not corrections or max(corrections.values()) == 1, f"a correction is there twice: {corrections}")
        for number, turn in enumerate(turns):
            if f"answered {number}" in told:
                outcome.expect(turn.answer is not None, f"the answer to question {number} is lost")
            if f"corrected {number}" in told:
                outcome.expect(corrections[f"It is right {number}."] == 1, f"correction {number} is lost")
                outcome.expect("corrected" in turn.figures, f"correction {number} does not stand in its place")


class PageWithServer:
    """`fourfold ui` with a local model of its own, killed by itself: its server must not stay behind."""

    name = "page with a server"

    def __init__(self, shared: Path) -> None:
        self._shared = shared

    def round(self, dice: random.Random, folder: Path) -> Outcome:
        outcome = Outcome()
        make_checkpoint(self._shared / "tiny")
        words = [
            "ui",
            "--headless",
            "--port",
            "0",
            "--data",
            str(folder / "data"),
            "--model",
            str(self._shared / "tiny"),
        ]
        with (folder / "log.txt").open("wb") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            page = psutil.Popen([sys.executable, "-m", "fourfold", *words], stdout=log, stderr=log, env=environment)
        children: list[psutil.Process] = []
        try:
            wait(lambda: page.poll() is not None or page.children(), 120)
            children = page.children()
            outcome.expect(children, f"no server was started: {(folder / 'log.txt').read_text()[-300:]}")
            psutil.wait_procs([page], timeout=dice.random() * 8)
            page.kill()
            page.wait()
            outcome.kills["page's process"] += 1
            _, left = psutil.wait_procs(children, timeout=30)
            outcome.expect(not left, "the server of a page that was killed is still there after 30 s")
        finally:
            for process in [page, *children]:
                if process.is_running():
                    process.kill()
        return outcome
