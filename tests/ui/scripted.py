"""A small real endpoint with fixed answers: two models, streams, usage, answers that break off or fail on request.

`python -m tests.ui.scripted PORT` runs it as a process of its own, which can be killed.
"""

import json
import re
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS = ("fourfold-mini", "fourfold-tuned")
BALL = (0.105, 0.425, 0.357, 0.752)  # where things are in fourfold/samples/table.jpg
BOX = (0.378, 0.437, 0.644, 0.751)
BOTTLE = (0.703, 0.229, 0.859, 0.779)
WINDOW = (0.214, 0.0, 0.799, 0.418)
CLAIMS = [
    {"phrase": "the bottle", "box": list(BOTTLE), "confidence": 0.83, "source": "read-out"},
    {"phrase": "no dog", "box": None, "confidence": 0.9, "source": "read-out + model"},
]
THOUGHT = "A ball is round."
LONG = " ".join(f"word{number}" for number in range(400))


def box(sides: tuple[float, float, float, float]) -> str:
    """As the model writes it."""
    return "{" + "".join(f"<{round(100 * side)}>" for side in sides) + "}"


def thousandths(sides: tuple[float, float, float, float]) -> list[int]:
    """As Qwen3-VL writes them."""
    return [round(1000 * side) for side in sides]


def answer_to(question: str, model: str) -> str:
    """The answer to a question, by its words."""
    words = question.lower()
    table = {
        "[identify]": "a red ball",
        "[grounding]": (
            f"<p>A red ball</p> {box(BALL)}, <p>a blue box</p> {box(BOX)} and <p>a green bottle</p> {box(BOTTLE)} "
            f"stand on a wooden table in front of <p>a window</p> {box(WINDOW)}."
        ),
        "[caption]": "A red ball, a blue box and a green bottle on a wooden table.",
        "[detection]": f"<p>thing</p> {box(BALL)}<delim>{box(BOX)}<delim>{box(BOTTLE)}",
        "location of the bottle": f"<p>the bottle</p> {box(BOTTLE)}",
        "location of the ball": box(BALL),
        "is there a": "yes",
        "how many": "3",
        "colour is the ball": "The ball is red." if model == MODELS[0] else "Red. It is a shiny red ball.",
        "tell me a long story": LONG,
        "think aloud": f"<think>Is it the <b>ball</b>?</think>It is <p>the ball</p> {box(BALL)}.",
        "think apart": "It rolls.",
        "be silent": "" if model == MODELS[0] else "I am not.",
        "in json": "```json\n[" + json.dumps({"bbox_2d": thousandths(BALL), "label": "a red ball"}) + "]\n```",
        "in tokens": "It is <|box_start|>({},{}),({},{})<|box_end|>.".format(*thousandths(BALL)),
        "html": "<img src=x onerror=\"document.title='hacked'\"> <b>bold</b> ![x](http://127.0.0.1:9/leak.png)",
        "list": "It shows:\n\n- **a ball**\n- a box\n- a bottle",
    }
    return next((answer for key, answer in table.items() if key in words), "I see a table with three things on it.")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Scripted"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        cards = [{"id": name, "object": "model", "created": 0, "owned_by": "test"} for name in self.server.models]
        for card in cards[1:]:
            card["parent"] = self.server.models[0]
        if self.server.card:
            cards[0]["card"] = self.server.card
        if self.server.eyes:
            cards += [{**card, "id": card["id"] + "+eyes"} for card in cards]
        self._reply(200, {"object": "list", "data": cards})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "lora_adapter" in self.path:
            self.server.told.append({**body, "key": self.headers.get("Authorization")})
            return self._reply(200, {})
        if self.path.endswith("/eyes"):
            return self._eyes(body)
        self.server.requests.append(body)
        content = body["messages"][-1]["content"]
        question = content if isinstance(content, str) else "\n".join(p["text"] for p in content if p["type"] == "text")
        if found := re.search(r"fail with (\d{3})", question):
            return self._reply(int(found.group(1)), {"error": {"message": "it was told to fail", "type": "test"}})
        text = answer_to(question, body["model"])
        pieces = re.findall(r"\S+\s*", text)
        usage = {"prompt_tokens": 80, "completion_tokens": len(pieces), "total_tokens": 80 + len(pieces)}
        head = {"id": "c", "created": 0, "model": body["model"]}
        apart = "think apart" in question
        if not body.get("stream"):
            message = {"role": "assistant", "content": text, **({"reasoning_content": THOUGHT} if apart else {})}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return self._reply(200, {**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        head["object"] = "chat.completion.chunk"
        deltas: list[tuple[dict[str, Any], str | None]] = [({"content": piece}, None) for piece in pieces]
        if apart:
            deltas[:0] = [({"reasoning_content": piece}, None) for piece in re.findall(r"\S+\s*", THOUGHT)]
        if "break off" not in question and "reset" not in question:
            looked = body["model"].endswith("+eyes") and "bottle" in question
            deltas.append(({"claims": CLAIMS} if looked else {}, "stop"))
        try:
            for delta, finish in [({"role": "assistant", "content": ""}, None), *deltas]:
                self._event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
                time.sleep(self.server.pause * (5 if "story" in question else 1))
            if "reset" in question:  # as a process that is killed, or a proxy that gives up
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            elif "break off" not in question:
                self._event({**head, "choices": [], "usage": usage})
                self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.hung_up.set()

    def _eyes(self, body: dict[str, Any]) -> None:
        if body["phrase"] in self.server.shown:
            return self._reply(200, {"phrase": body["phrase"], "noun": body["phrase"], "source": "shown once"})
        if body["phrase"] != "the bottle":
            unknown = {"phrase": body["phrase"], "noun": None, "presence": None, "map": None, "boxes": []}
            return self._reply(200, unknown)
        heat = {"rows": 2, "columns": 3, "values": [0, 0.5, 1, 0, 0, 0.25]}
        self._reply(200, {"phrase": "the bottle", "noun": "bottle", "presence": 0.9, "map": heat, "boxes": []})

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Scripted(ThreadingHTTPServer):
    """The endpoint, on a loopback port.

    Attributes:
        card: what is told of its first model, as `assistant.checkpoints.card` has it.
        requests: bodies of the questions so far.
        told: what it was told of adapters, with the key.
        shown: names of things that its eyes were shown.
        hung_up: set when somebody left in the middle of a stream.
    """

    daemon_threads = True

    def __init__(self, port: int = 0, pause: float = 0.0, models: tuple[str, ...] = MODELS, eyes: bool = False) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.pause = pause
        self.models = models
        self.eyes = eyes
        self.card: dict[str, Any] | None = None
        self.requests: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []
        self.shown: set[str] = set()
        self.hung_up = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def start(self) -> "Scripted":
        """Serve in a thread."""
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self


if __name__ == "__main__":
    Scripted(int(sys.argv[1]), pause=float(sys.argv[2]) if len(sys.argv) > 2 else 0.05).serve_forever()
