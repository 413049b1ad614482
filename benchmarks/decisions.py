"""Ten yes/no questions about each of many pictures: by `POST /v1/decisions`, and by ten chat completions at once.

    python -m benchmarks.decisions [--pictures 1000] [--model DIR]

Both ask the same server about pictures that it has not seen. The ten completions of a picture are sent together, which
is how they are answered fastest; each may take two tokens, a word and the end.
"""

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, in_turns
from benchmarks.questions import jpeg, picture, question
from benchmarks.speed.servers import Server
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.images import Attachment

NOUNS = ("dog", "person", "car", "ball", "tree", "house", "cat", "boat", "table", "bird")
QUESTIONS = [f"[vqa] is there a {noun} in the image?" for noun in NOUNS]


def decisions(model: Path, rounds: int, pictures: int, logs: Path) -> dict[str, Figure]:
    """Questions answered a second: `decisions`, and `ten chats` about other pictures.

    Args:
        model: checkpoint directory.
        rounds: runs of each.
        pictures: of a run.
        logs: directory for what the server says.
    """
    with contextlib.closing(Server("fourfold", model, logs)) as server:
        return ask_both_ways(server, rounds, pictures)


def ask_both_ways(server: Server, rounds: int, pictures: int) -> dict[str, Figure]:
    """As `decisions`, of a server that runs."""
    with ThreadPoolExecutor(len(QUESTIONS)) as pool:

        def by_decisions() -> float:
            return _rate(pictures, lambda image: _decide(server, image))

        def by_chats() -> float:
            return _rate(pictures, lambda image: _chat(server, image, pool))

        return in_turns({"decisions": by_decisions, "ten chats": by_chats}, rounds, "questions/s")


def _rate(pictures: int, ask: Callable[[Attachment], object]) -> float:
    images = [Attachment(jpeg(picture())) for _ in range(pictures)]
    started = time.perf_counter()
    for image in images:
        ask(image)
    return pictures * len(QUESTIONS) / (time.perf_counter() - started)


def _decide(server: Server, image: Attachment) -> None:
    asked: list[Any] = [{"type": "predicate", "instructions": words} for words in QUESTIONS]
    seen: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": image.data_uri}]}]
    answer = server.client.decisions.create(model=server.called, input=seen, questions=asked)
    if any(one.type != "predicate" for one in answer.answers):
        raise RuntimeError("a question was refused")


def _chat(server: Server, image: Attachment, pool: ThreadPoolExecutor) -> None:
    list(pool.map(lambda words: server.ask([question(words, image)], 2), QUESTIONS))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--model", help="a checkpoint directory; default: fourfold-mini")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as logs:
        figures = decisions(resolve_model(given.model), 1, given.pictures, Path(logs))
    print(json.dumps({name: figure.to_json() for name, figure in figures.items()}, indent=1))


if __name__ == "__main__":
    main()
