"""What a model was measured to be good at arrives with it, and decides which samples are offered."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from fourfold.assistant.checkpoints.card import Card, TaskCard
from fourfold.prompts.tasks import Task
from fourfold.ui.state.endpoint import Endpoint, Served, served_models
from fourfold.ui.views.welcome import SAMPLES, offered

POOR = {"line": "Small.", "tasks": {"grounding": {"level": "poor", "note": "7 of 100"}}}
GOOD = {
    "line": "Sees.",
    "tasks": {"grounding": {"level": "unsure", "note": "?"}, "refer": {"level": "good", "note": "60"}},
}


@pytest.fixture
def endpoint() -> Iterator[str]:
    """Lists models with and without a card, with and without eyes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            cards = [
                {"id": "mini", "card": POOR},
                {"id": "mini+eyes", "card": GOOD},
                {"id": "alone", "card": POOR},
                {"id": "odd", "card": ["x"]},
                {"id": "other"},
            ]
            listed = [{"object": "model", "created": 0, "owned_by": "test", **card} for card in cards]
            body = json.dumps({"object": "list", "data": listed}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


def test_the_card_is_that_of_the_loop_where_there_is_one(endpoint: str) -> None:
    found = {model.name: model.card for model in served_models(Endpoint(endpoint))}
    told = {Task.GROUNDING: TaskCard("unsure", "?"), Task.REFER: TaskCard("good", "60")}
    assert found["mini"] == Card("Sees.", told)
    assert found["alone"] is not None and found["alone"].line == "Small."
    assert found["odd"] is None and found["other"] is None


def test_samples_are_what_the_model_is_good_at() -> None:
    everything = [label for label, _, _ in SAMPLES[0].questions]
    assert [label for _, (label, _, _) in offered(SAMPLES[0], None)] == everything
    assert [label for _, (label, _, _) in offered(SAMPLES[0], Served("other"))] == everything
    small = Served(
        "mini", card=Card("Sees.", {Task.GROUNDING: TaskCard("unsure", "?"), Task.REFER: TaskCard("good", "")})
    )
    left = [(place, task) for place, (_, task, _) in offered(SAMPLES[0], small)]
    assert Task.GROUNDING not in [task for _, task in left] and Task.REFER in [task for _, task in left]
    # A button keeps its place among all of them.
    assert all(SAMPLES[0].questions[place][1] is task for place, task in left)
