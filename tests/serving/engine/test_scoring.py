"""Many questions about one context: right, read once, and the same whatever is asked beside them."""

from typing import Any

import pytest
import torch

from fourfold.prompts.errors import UserError
from fourfold.serving.engine.engine import Engine, Request, Sampling
from fourfold.serving.engine.model_runner import ModelRunner
from fourfold.serving.engine.scoring import Question, Ranking, asked
from tests.serving.engine.conversations import Messages, Reference, conversations, part, picture, user

SEEN: Messages = [{"role": "user", "content": [{"type": "image", "image": picture(7)}]}]
ANSWERS = ("yes", "no", "the car is red.", "a dog")


def question(words: str, *candidates: str, image: int | None = None) -> Question:
    shown = [] if image is None else [{"type": "image", "image": picture(image)}]
    return Question([*shown, part(words)], candidates or ("yes", "no"))


def rank(engine: Engine, context: Messages, *questions: Question, **more: Any) -> list[Ranking]:
    return list(engine.ranker(Request(context, **more)).rank(questions))


def check(reference: Reference, context: Messages, one: Question, ranking: Ranking) -> None:
    """The log-likelihoods are those of plain transformers, which reads all of it for every candidate."""
    messages = asked(context, one.content)
    for candidate, found in zip(one.candidates, ranking.log_likelihoods, strict=True):
        ids = reference.processor.tokenizer.encode(candidate, add_special_tokens=False)
        expected = reference.logprobs(messages, ids).gather(1, torch.tensor(ids)[:, None])[:, 0]
        assert found == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    "context",
    [SEEN, [user("the picture was taken in 1990.", [picture(1), picture(2)])], [], *conversations()],
    ids=["picture", "pictures and words", "nothing", "a", "b", "words", "many turns"],
)
def test_likelihoods_are_those_of_the_model(engine: Engine, reference: Reference, context: Messages) -> None:
    questions = [
        question("is there a dog?", *ANSWERS),
        question("[vqa] what is the colour of the car?", "red", "green", "the lazy dog jumps"),
        question("is this the same as in the picture?", image=3),
        question("", "0", "1"),
    ]
    for one, ranking in zip(questions, rank(engine, context, *questions), strict=True):
        check(reference, context, one, ranking)


def test_a_long_context_is_read_in_slices(engine: Engine, reference: Reference) -> None:
    context = [user("the quick brown fox jumps over the lazy dog. " * 60, [picture(4)])]
    ranker = engine.ranker(Request(context))
    one = question("is there a dog?", *ANSWERS)
    (ranking,) = ranker.rank([one])
    assert ranker.context_tokens > 512
    check(reference, context, one, ranking)


def test_everything_is_read_once(fresh: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    step = ModelRunner.step

    def counting(self: ModelRunner, inputs: Any, lora_id: int = 0) -> Any:
        nonlocal read
        read += sum(entry.count for entry in inputs)
        return step(self, inputs, lora_id)

    monkeypatch.setattr(ModelRunner, "step", counting)
    questions = [question(f"is there {number}?", *ANSWERS) for number in range(30)]
    ranker = fresh.ranker(Request(SEEN))
    first = list(ranker.rank(questions))
    assert (fresh.stats.images_encoded, fresh.stats.images_reused) == (1, 0)
    assert ranker.cached_tokens == 0 and read == ranker.context_tokens + sum(ranking.tokens for ranking in first)
    # A question takes its own words, and the longer answers their own tokens.
    assert all(ranking.tokens < 40 for ranking in first)
    again = fresh.ranker(Request(SEEN))
    assert list(again.rank(questions)) == first
    assert again.cached_tokens == again.context_tokens == ranker.context_tokens
    assert fresh.stats.images_encoded == 1


def test_neighbours_change_nothing(fresh: Engine) -> None:
    asked_about = question("is there a dog?", *ANSWERS)
    others = [question(f"{word} there?", *ANSWERS[:count]) for word in ("[vqa] is", "yes", "") for count in (2, 4)]
    (alone,) = rank(fresh, SEEN, asked_about)
    for questions in ([*others, asked_about], [asked_about, *others], [others[0], asked_about, others[-1]]):
        assert rank(fresh, SEEN, *questions)[questions.index(asked_about)] == alone
    # Nor do answers that are made at the same time, about the same picture too.
    running = [fresh.submit(Request(messages, Sampling(max_tokens=300))) for messages in ([user("hello")], SEEN)]
    assert rank(fresh, SEEN, asked_about) == [alone]
    for sequence in running:
        sequence.cancel()
    # Nor what was kept of a conversation.
    fresh.generate([Request(asked(SEEN, asked_about.content), Sampling(max_tokens=5))])
    assert rank(fresh, SEEN, asked_about) == [alone]


def test_few_rows_are_enough(checkpoint: Any, engine: Engine) -> None:
    from tests.serving.engine.conversations import load

    one = question("is there a dog?", *ANSWERS)
    with load(checkpoint, max_num_seqs=1) as narrow:
        (found,) = rank(narrow, SEEN, one)
    (expected,) = rank(engine, SEEN, one)
    for tokens, others in zip(found.log_likelihoods, expected.log_likelihoods, strict=True):
        assert tokens == pytest.approx(others, abs=1e-4)


def test_what_cannot_be_asked_is_refused_alone(engine: Engine) -> None:
    good = question("is there a dog?")
    bad = {
        "read the same": question("which?", "yes", "yes"),
        "no tokens": question("which?", "yes", ""),
        "reads at most": question("dog " * 2000),
    }
    rankings = rank(engine, SEEN, good, *bad.values(), good)
    assert rankings[0] == rankings[-1] and rankings[0].log_likelihoods
    for words, ranking in zip(bad, rankings[1:-1], strict=True):
        assert words in (ranking.refusal or "") and not ranking.log_likelihoods


def test_a_context_that_is_too_long_is_refused(engine: Engine) -> None:
    with pytest.raises(UserError, match="reads at most"):
        rank(engine, [user("dog " * 2000)], question("is there a dog?"))
    assert rank(engine, SEEN) == []
