"""An evaluation against an endpoint, killed again and again: each question has one answer and is asked once."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from tests.chaos.process import Process, command, count_operations, kills
from tests.chaos.rounds import Outcome

QUESTIONS, AT_ONCE = 60, 3
_PAUSE = 0.02  # seconds that an answer takes


def make_pope(folder: Path, questions: int = QUESTIONS) -> None:
    """A small POPE: `pope.json`, and its pictures in `images/`."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(questions):
        name = f"COCO_val2014_{number % 4:012d}.jpg"
        if number < 4:
            Image.new("RGB", (32, 32), (number * 60, 90, 30)).save(folder / "images" / name)
        rows.append({"question_id": number + 1, "image": name, "text": f"Is there a thing {number}?", "label": "yes"})
    (folder / "pope.json").write_text("\n".join(map(json.dumps, rows)))


def words(folder: Path, url: str) -> list[str]:
    """The command that evaluates."""
    given = ["--images", folder / "images", "--annotations", folder / "pope.json", "--out", folder / "out"]
    return ["eval", "run", "pope", *map(str, given), "--endpoint", url, "--concurrency", str(AT_ONCE), "--json"]


def serve(asked: Path, port_file: Path) -> None:
    """An endpoint that says yes, and writes down what it was asked right before it answers."""
    handle = os.open(asked, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._reply({"object": "list", "data": [{"id": "scripted", "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(_PAUSE)
            os.write(handle, (body["messages"][-1]["content"][-1]["text"].split("\n")[-1] + "\n").encode())
            choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
            self._reply({"id": "1", "object": "chat.completion", "created": 0, "model": "s", "choices": [choice]})

        def _reply(self, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    part = port_file.with_suffix(".part")
    part.write_text(str(server.server_port))
    part.rename(port_file)
    server.serve_forever(0.05)


class Served:
    """An endpoint in a process of its own; `url`, and `asked`, how often each question was answered."""

    def __init__(self, folder: Path, work: Callable[[Path, Path], None] = serve) -> None:
        from tests.chaos.stores import wait

        port, self._asked = folder / "port", folder / "asked.txt"
        port.unlink(missing_ok=True)
        self.process = Process(partial(work, self._asked, port), folder / "endpoint.txt")
        wait(port.exists)
        self.url = f"http://127.0.0.1:{port.read_text()}/v1"

    @property
    def asked(self) -> Counter[str]:
        return Counter(self._asked.read_text().splitlines())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class EvaluationKills:
    name = "evaluation"

    def __init__(self) -> None:
        self._cost: tuple[float, int] | None = None
        self._score: Any = None

    def round(self, dice: random.Random, folder: Path) -> Outcome:
        outcome, log = Outcome(), folder / "log.txt"
        if self._cost is None:
            whole = folder / "whole"
            make_pope(whole)
            endpoint = Served(whole)
            seconds, operations, code = count_operations(command(words(whole, endpoint.url)), log)
            endpoint.stop()
            outcome.expect(code == 0, f"an undisturbed evaluation failed: {log.read_text()[-400:]}")
            self._cost, self._score = (seconds, operations), _score(whole)
        make_pope(folder / "killed")
        endpoint = Served(folder / "killed")
        work = command(words(folder / "killed", endpoint.url))
        killed = 0
        try:
            for _ in range(dice.randrange(2, 7)):
                process = Process(work, log, kills(dice, *self._cost))
                code = process.kill_when_due()
                if code == -9:
                    killed += 1
                outcome.expect(code in (0, -9), f"it ended with {code}: {process.said()[-400:]}")
            process = Process(work, log)
            outcome.expect(process.wait() == 0, f"the next start needed help: {process.said()[-400:]}")
            asked = endpoint.asked
        finally:
            endpoint.stop()
        outcome.kills["evaluation"] += killed
        lines = [json.loads(line) for line in (folder / "killed" / "out" / "answers.jsonl").read_text().splitlines()]
        answered = Counter(line["sample"] for line in lines)
        outcome.expect(len(answered) == QUESTIONS and set(answered.values()) == {1}, f"answers: {answered}")
        outcome.expect(len(asked) == QUESTIONS, f"{len(asked)} questions were asked")
        vain = asked.total() - QUESTIONS
        outcome.expect(vain <= AT_ONCE * killed, f"{vain} questions were asked again after {killed} kills")
        outcome.expect(_score(folder / "killed") == self._score, "the score is another than undisturbed")
        left = [path.name for path in (folder / "killed" / "out").iterdir() if path.name.startswith(".")]
        outcome.expect(len(left) <= killed, f"left behind: {left}")
        return outcome


def _score(folder: Path) -> Any:
    result = json.loads((folder / "out" / "result.json").read_text())
    return {name: value for name, value in result.items() if name in ("headline", "metrics", "scores", "slices")}
