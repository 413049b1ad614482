"""The engine on the default model's real weights: equal to plain transformers, and its caches used."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.serving.engine.engine import Engine, Request, Sampling
from fourfold.serving.engine.scoring import Question, Ranking
from tests.serving.engine.conversations import Reference, ask, assistant, picture, user

pytestmark = pytest.mark.mini


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    return resolve_model("fourfold-mini")


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[Engine]:
    with Engine.load(checkpoint, dtype="float32", device="cpu") as loaded:
        yield loaded


def question(number: int, text: str = "[vqa] what is in the picture?") -> list[dict]:
    red = Image.new("RGB", (320, 240), "red")
    red.paste(picture(number, (100, 80)), (60, 40))
    return [user(text, [red])]


def test_greedy_answers_equal_generate(engine: Engine, checkpoint: Path) -> None:
    reference = Reference(checkpoint)
    asked = [question(0), question(1, "[caption] describe this image briefly"), [user("what is a fox?")]]
    completions = engine.generate([Request(messages, Sampling(max_tokens=16)) for messages in asked])
    for messages, completion in zip(asked, completions, strict=True):
        assert completion.token_ids == reference.greedy(messages, 16)


def test_the_answer_reads_as_the_tokenizer_writes_it(engine: Engine, checkpoint: Path) -> None:
    completion = ask(engine, [user("hello")], max_tokens=8)
    assert completion.text == Reference(checkpoint).processor.tokenizer.decode(
        completion.token_ids, skip_special_tokens=True
    )


def test_a_follow_up_reads_only_what_is_new(engine: Engine) -> None:
    first = ask(engine, question(2), max_tokens=24)
    follow = ask(engine, [*question(2), assistant(first.text), user("[vqa] is it red?")], max_tokens=24)
    assert follow.cached_tokens >= first.prompt_tokens


def test_closed_questions_keep_their_answers_in_company_and_in_8_bit(checkpoint: Path) -> None:
    """Bit for bit, with int8 weights as they are served: the kernels differ with the number of rows."""
    with Engine.load(checkpoint, device="cpu") as served:
        seen = question(3)
        del seen[0]["content"][1]
        asked = [
            Question([{"type": "text", "text": f"[vqa] {words}"}], answers)
            for words, answers in (
                ("is there a dog in the image?", ("yes", "no")),
                ("what colour is it?", ("red", "dark green", "light purple", "white")),
                ("is it red?", ("yes", "no")),
            )
        ]

        def rank(*questions: Question) -> list[Ranking]:
            return list(served.ranker(Request(seen)).rank(questions))

        alone = [rank(one)[0] for one in asked]
        assert rank(*asked) == alone and rank(*asked[::-1])[::-1] == alone
        running = [served.submit(Request(question(number), Sampling(max_tokens=60))) for number in (3, 4, 5)]
        assert rank(*asked) == alone
        for sequence in running:
            sequence.result()
        assert rank(*asked) == alone
        with Engine.load(checkpoint, device="cpu") as fresh:
            assert list(fresh.ranker(Request(seen)).rank(asked)) == alone
