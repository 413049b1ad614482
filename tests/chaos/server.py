"""`fourfold serve`, killed while it answers, learns what it is shown, and changes adapters."""

import contextlib
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.deploy import ServerAdmin
from fourfold.assistant.refine.registry import SERVED_NAME, Registry
from fourfold.assistant.refine.steps import promote, roll_back
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.prompts.errors import UserError
from fourfold.serving.api.server import bind
from tests.assistant.refine.corrections import correction, encoded, picture
from tests.chaos.process import Process, command, kill_group
from tests.chaos.rounds import Outcome
from tests.chaos.stores import wait
from tests.serving.soak.teaching import make_adapters

KEY = "chaos-admin-key-0123456789"
_SECONDS = 8.0  # within which it is killed; half of it is its start


def make_seeing_checkpoint(directory: Path) -> None:
    """The tiny checkpoint with read-outs, so that it can be shown things; in a process of its own."""

    def make() -> None:
        from dataclasses import replace

        from fourfold.assistant.checkpoints.fingerprint import tower_fingerprint
        from fourfold.assistant.readouts.storage import READOUTS, save_library
        from fourfold.serving.engine.engine import Engine
        from tests.serving.looking.learnt import learnt_library
        from tests.tiny import save_tiny_checkpoint

        part = directory.with_name("seeing.part")
        save_tiny_checkpoint(part)
        with Engine.load(part, dtype="float32", device="cpu") as engine:
            library = replace(learnt_library(engine), tower=tower_fingerprint(part))
        save_library(library, part / READOUTS)
        part.rename(directory)

    if not directory.exists():
        process = Process(make, directory.with_name("seeing.txt"))
        assert process.wait() == 0, process.said()[-1000:]


class ServerKills:
    name = "server"

    def __init__(self, shared: Path) -> None:
        self._shared = shared

    def round(self, dice: random.Random, folder: Path) -> Outcome:
        outcome = Outcome()
        checkpoint = self._shared / "seeing"
        make_seeing_checkpoint(checkpoint)
        store = folder / "store"
        revisions = make_adapters(store, str(checkpoint))
        kept = CorrectionStore(store)
        kept.add(correction(1, id="known"), encoded(picture(1)))
        with bind("127.0.0.1", 0) as listener:
            port = listener.getsockname()[1]
        words = ["serve", "--model", str(checkpoint), "--port", str(port), "--memory", "--store", str(store)]
        work = command([*words, "--adapter", "current"], {"FOURFOLD_ADMIN_KEY": KEY, "OMP_NUM_THREADS": "1"})
        client = Client(f"http://127.0.0.1:{port}", store, revisions, dice)
        for turn in range(dice.randrange(3, 6)):
            process = Process(work, folder / "log.txt")
            killer = Process(partial(_kill, process.pid, round(dice.random() * _SECONDS, 3)), folder / "killer.txt")
            try:
                if client.until_ready(process):
                    client.check(outcome)
                    while process.poll() is None:
                        client.something()
            finally:
                killer.wait()
                code = process.wait()
            outcome.kills["server"] += code == -9
            outcome.expect(code == -9, f"server {turn} ended by itself with {code}: {process.said()[-500:]}")
        process = Process(work, folder / "log.txt")
        try:
            outcome.expect(client.until_ready(process), f"the next start needed help: {process.said()[-700:]}")
            if process.poll() is None:
                client.check(outcome)
                process.terminate()
                outcome.expect(process.wait(60) == 0, "it did not end in order")
        finally:
            process.kill()
            process.wait()
        outcome.problems += client.complaints
        outcome.expect("Traceback" not in process.said(), f"a traceback: {process.said()[-900:]}")
        return outcome


class Client:
    """Asks and teaches, and remembers what it was told that is done."""

    def __init__(self, url: str, store: Path, revisions: list[str], dice: random.Random) -> None:
        self.complaints: list[str] = []
        self._url, self._dice, self._revisions = url, dice, revisions
        self._store, self._registry = CorrectionStore(store), Registry(store)
        self._admin = ServerAdmin(f"{url}/v1", KEY)
        self._shown: dict[str, bool] = {}  # name: whether the server said that it is kept
        self._number = 0

    def until_ready(self, process: Process) -> bool:
        """Whether it came up before it ended."""

        def ready() -> bool:
            if process.poll() is not None:
                return True
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self._url}/ready", timeout=5).status_code == 200
            return False

        wait(ready, 120)
        return process.poll() is None

    def something(self) -> None:
        """One of the things that people do; the server may go away meanwhile."""
        self._number += 1
        number = self._number
        with contextlib.suppress(httpx.HTTPError, UserError):
            match self._dice.randrange(4):
                case 0:
                    name = f"thing {number}"
                    self._shown[name] = False
                    uri = Attachment(encoded(picture(100 + number))).data_uri
                    body = {"name": name, "image": uri, "boxes": [[0.1, 0.1, 0.8, 0.8]]}
                    self._shown[name] = self._post("/v1/concepts", body).status_code == 200
                case 1:
                    self._stream(number)
                case 2:
                    revision = self._dice.choice(self._revisions)
                    promote(self._store, self._registry, revision, force=True, server=self._admin)
                case 3:
                    if self._registry.state().current:
                        roll_back(self._store, self._registry, server=self._admin)

    def check(self, outcome: Outcome) -> None:
        """After a start what was acknowledged is there once, the promoted adapter answers, and what was corrected is
        known."""
        with contextlib.suppress(httpx.HTTPError):  # killed meanwhile
            headers = {"authorization": f"Bearer {KEY}"}
            shown = httpx.get(f"{self._url}/v1/concepts", headers=headers, timeout=30).json()["data"]
            names = [concept["name"] for concept in shown]
            examples = [example["id"] for concept in shown for example in concept["examples"]]
            lost = [name for name, kept in self._shown.items() if kept and name not in names]
            outcome.expect(not lost, f"shown and lost: {lost}")
            outcome.expect(set(names) <= set(self._shown), f"never shown: {set(names) - set(self._shown)}")
            outcome.expect(len(examples) == len(names) == len(set(names)), f"shown once, there twice: {names}")
            models = httpx.get(f"{self._url}/v1/models", headers=headers, timeout=30).json()["data"]
            served = any(model["id"] == SERVED_NAME for model in models)
            outcome.expect(served == bool(self._registry.state().current), f"adapter served: {served}")
            known = correction(1)
            parts = [
                {"type": "image_url", "image_url": {"url": Attachment(encoded(picture(1))).data_uri}},
                {"type": "text", "text": known.question},
            ]
            reply = self._post("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]})
            said = reply.json()["choices"][0]["message"]["content"] if reply.status_code == 200 else reply.text
            outcome.expect(said == known.chosen, f"what was corrected is answered by {said[:200]!r}")

    def _stream(self, number: int) -> None:
        """A stream ends with [DONE], or breaks off where its reader can see it: never as if it were whole."""
        body = {"messages": [{"role": "user", "content": f"hello {number}"}], "max_tokens": 40, "stream": True}
        headers = {"authorization": f"Bearer {KEY}"}
        lines: list[str] = []
        with httpx.stream("POST", f"{self._url}/v1/chat/completions", json=body, headers=headers, timeout=30) as reply:
            lines += [line for line in reply.iter_lines() if line]
        if not lines or lines[-1] != "data: [DONE]":
            self.complaints.append(f"a stream ended as if it were whole: {lines[-1:]}")

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(self._url + path, json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=30)


def _kill(pid: int, seconds: float) -> None:
    time.sleep(seconds)
    kill_group(pid)
