"""Questions have the same answers however they are asked, to the last bit: two hundred of the default model.

Alone and eight at once, with nothing cached, after other questions about the same picture and in a conversation, on one
thread, on two, and on another number at every step.
"""

import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.training.data.scene_tasks import SCENE_SORTS
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.serving.engine.cache import FeatureCache
from fourfold.serving.engine.engine import Completion, Engine, Request, Sampling
from fourfold.serving.engine.threads import threads
from tests.serving.engine.conversations import Messages, assistant, picture, user

QUESTIONS = 200
TOKENS = 16
ROOT = Path(__file__).parents[3]
ABOUT_PHOTOS = (
    "[vqa] what is in the picture?",
    "[vqa] what colour is it?",
    "[caption] describe this image briefly",
    "[refer] give me the location of the person",
    "[grounding] describe this image in detail",
    "what would you do there?",
)


def about_photos() -> Iterator[Messages]:
    """The one that comes with the package, and real ones where they are."""
    files = [ROOT / "fourfold" / "samples" / "table.jpg"]
    data = Path(os.environ.get("FOURFOLD_DATA", ROOT.parent / "shared" / "data")) / "photos"
    if (table := data / "coco.jsonl").is_file():
        with table.open() as lines:
            files += [data / json.loads(line)["image"] for line in itertools.islice(lines, 8)]
    for file in files:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        for text in ABOUT_PHOTOS:
            yield [user(text, [image])]


def about_scenes() -> Iterator[Messages]:
    """Several of each, every third of them in the conversation about the question before."""
    for number in itertools.count():
        scene = make_scene(f"equal answers {number}")
        image, before = scene.render(), None
        turns = [turn for sort in SCENE_SORTS.values() for turn in sort(scene)[:1]]
        for place, turn in enumerate(turns):
            if before is not None and place % 3 == 2:
                yield [user(before.question, [image]), assistant(before.answer), user(turn.question)]
            else:
                yield [user(turn.question, [image])]
            before = turn


def long_ones() -> Iterator[Messages]:
    """Prompts of all sorts of lengths, which are read in one piece or several, and with pictures side by side."""
    for number in range(24):
        yield [user("the quick brown fox jumps over the lazy dog and the " + "red car " * (35 + 11 * number))]
    for number in range(6):
        images = [picture(number + place) for place in range(1 + number % 3)]
        yield [user("tell me a story " * (5 * number + 1), images), assistant("once upon a time"), user("go on")]


def questions(number: int) -> list[Messages]:
    """Of all kinds."""
    some = [*about_photos(), *long_ones()]
    every = [*some, *itertools.islice(about_scenes(), QUESTIONS - len(some))]
    return random.Random(0).sample(every, number)


def told(completion: Completion) -> tuple[object, ...]:
    """All that a client may compare, log-probabilities included."""
    return completion.token_ids, completion.text, completion.finish_reason, completion.logprobs


class Asked:
    """Questions, put to one engine in different ways."""

    def __init__(self, engine: Engine, number: int) -> None:
        self.engine = engine
        asked = [Request(messages, Sampling(max_tokens=TOKENS, logprobs=1)) for messages in questions(number)]
        self.requests = [request for request in asked if len(engine.prompt_tokens(request)) < engine.context_length]

    def forget(self, *, pictures: bool = False) -> None:
        """As after a start: nothing that was read before is known."""
        self.engine._scheduler.call(lambda: self.engine._scheduler.prefix_cache.forget(0))
        if pictures:
            self.engine.model_runner.feature_cache = FeatureCache(2**28)

    def alone(self, *, cold: bool) -> list[tuple[object, ...]]:
        answers = []
        for request in self.requests:
            if cold:
                self.forget()
            [completion] = self.engine.generate([request])
            assert not cold or completion.cached_tokens == 0
            answers.append(told(completion))
        return answers

    def together(self, seed: int) -> list[tuple[object, ...]]:
        """Eight at once, in another order."""
        order = random.Random(seed).sample(range(len(self.requests)), len(self.requests))
        completions = self.engine.generate([self.requests[place] for place in order])
        by_place = dict(zip(order, map(told, completions), strict=True))
        return [by_place[place] for place in range(len(order))]


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("lively", 40),
        pytest.param("mini", QUESTIONS, marks=[pytest.mark.mini, pytest.mark.timeout(1200)]),
    ],
)
def test_every_way_of_asking_has_the_same_answers(
    source: str, number: int, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.repeat(1)
    monkeypatch.setattr(threads, "now", lambda: next(numbers))
    directory = checkpoint if source == "lively" else resolve_model("fourfold-mini")
    with Engine.load(directory, device="cpu", max_num_seqs=8) as engine:
        asked = Asked(engine, number)
        cold = asked.alone(cold=True)
        assert len(cold) > number / 2 and len({answer[1] for answer in cold}) > number / 5, "they differ"
        ways = {"after one another, what was read is kept": asked.alone(cold=False)}
        numbers = itertools.repeat(2)
        asked.forget(pictures=True)
        ways["eight at once, on two threads"] = asked.together(1)
        drawn = random.Random(2)
        numbers = iter(lambda: drawn.randint(1, 2), 0)
        ways["eight at once, cached, on another number of threads at each step"] = asked.together(2)
        for way, answers in ways.items():
            others = [place for place, answer in enumerate(answers) if answer != cold[place]]
            assert not others, f"{way}: {len(others)} of {len(cold)} differ, the first is {asked.requests[others[0]]}"
