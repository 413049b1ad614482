import math
from typing import Any

import pytest
import torch
import transformers

from fourfold.prompts.errors import UserError
from fourfold.serving.engine.requests import Sampling, StructuredOutputs
from fourfold.serving.engine.sampling.draw import Sampler, draw_tokens, top_logprobs


def draws(sampling: Sampling, logits: torch.Tensor, count: int, prompt: tuple[int, ...] = (0,)) -> list[int]:
    sampler = Sampler(sampling, list(prompt), len(logits))
    return [sampler.draw(logits.numpy()) for _ in range(count)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"logprobs": 21}, "logprobs"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ("a", "")}, "stop"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"presence_penalty": float("nan")}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"logit_bias": ((1, 101.0),)}, "logit_bias"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"bad_words": ("dog", " ")}, "bad_words"),
        ({"ignore_eos": True, "structured_outputs": StructuredOutputs("choice", '["a"]')}, "ignore_eos"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Sampling(**options)


def test_frequencies_follow_the_softmax_at_the_temperature() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    drawn = torch.tensor(draws(Sampling(temperature=2.0, seed=1), logits, 4000))
    expected = torch.softmax(logits / 2, -1)
    frequencies = torch.bincount(drawn, minlength=4) / len(drawn)
    assert torch.allclose(frequencies, expected, atol=4 * math.sqrt(0.25 / 4000))


def test_the_nucleus_holds_the_tokens_before_which_less_than_top_p_is_gathered() -> None:
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    assert set(draws(Sampling(temperature=1, top_p=0.6, seed=0), logits, 200)) == {1, 2}
    assert set(draws(Sampling(temperature=1, top_p=0.4, seed=0), logits, 50)) == {1}
    assert set(draws(Sampling(temperature=1, top_p=1e-9, seed=0), logits, 50)) == {1}


def test_a_seed_repeats_and_another_seed_differs() -> None:
    logits = torch.zeros(100)
    first = draws(Sampling(temperature=1, seed=5), logits, 20)
    assert first == draws(Sampling(temperature=1, seed=5), logits, 20)
    assert first != draws(Sampling(temperature=1, seed=6), logits, 20)
    assert first != draws(Sampling(temperature=1), logits, 20)


def test_the_penalty_divides_positive_and_multiplies_negative_logits_of_what_was_seen() -> None:
    sampling = Sampling(repetition_penalty=2.0)
    assert draws(sampling, torch.tensor([3.0, 2.0, 1.0]), 3, prompt=(2,)) == [0, 1, 0]
    assert draws(sampling, torch.tensor([-1.0, -1.5, -9.0]), 2, prompt=(0,)) == [1, 0]


def test_rows_of_a_batch_are_drawn_as_they_would_be_alone() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    ways = [Sampling(), Sampling(temperature=1, seed=3), Sampling(repetition_penalty=1.5), Sampling()]
    together = [Sampler(sampling, [0], 50) for sampling in ways]
    alone = [Sampler(sampling, [0], 50) for sampling in ways]
    for _ in range(5):
        expected = [sampler.draw(row.numpy()) for sampler, row in zip(alone, logits, strict=True)]
        assert draw_tokens(logits.numpy(), together) == expected


def test_logprobs_are_of_the_plain_softmax_and_ordered() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0])
    own, top = top_logprobs(logits.numpy(), 0, 2)
    expected = torch.log_softmax(logits, -1).tolist()
    assert own == pytest.approx(expected[0])
    assert [token for token, _ in top] == [1, 2]
    assert [value for _, value in top] == pytest.approx([expected[1], expected[2]])
    assert top_logprobs(logits.numpy(), 1, 0)[1] == []


PROMPT = [3, 8, 8]
FILTERS: list[tuple[dict[str, Any], list[transformers.LogitsProcessor]]] = [
    ({"top_k": 5}, [transformers.TopKLogitsWarper(5)]),
    ({"top_k": 1}, [transformers.TopKLogitsWarper(1)]),
    ({"top_k": 1000}, []),
    ({"min_p": 0.2}, [transformers.MinPLogitsWarper(0.2)]),
    ({"min_p": 1.0}, [transformers.MinPLogitsWarper(1.0)]),
    ({"top_p": 0.7}, [transformers.TopPLogitsWarper(0.7)]),
    ({"repetition_penalty": 1.7}, [transformers.RepetitionPenaltyLogitsProcessor(1.7)]),
    (
        {"repetition_penalty": 0.7, "logit_bias": ((5, -2.5), (8, 4.0), (0, -100.0))},
        [
            transformers.SequenceBiasLogitsProcessor([[[5], -2.5], [[8], 4.0], [[0], -100.0]]),
            transformers.RepetitionPenaltyLogitsProcessor(0.7),
        ],
    ),
    (
        {"top_k": 12, "top_p": 0.8, "min_p": 0.1},
        [transformers.TopKLogitsWarper(12), transformers.TopPLogitsWarper(0.8), transformers.MinPLogitsWarper(0.1)],
    ),
]


@pytest.mark.parametrize(("options", "processors"), FILTERS, ids=["-".join(options) for options, _ in FILTERS])
def test_draws_are_from_what_transformers_would_leave(
    options: dict[str, Any], processors: list[transformers.LogitsProcessor]
) -> None:
    """In the first and in the third place of an answer: its probabilities are those of transformers' own processors."""
    temperature = 1.3
    chain = [transformers.TemperatureLogitsWarper(temperature)]
    before = [one for one in processors if not type(one).__name__.endswith("Warper")]
    chain = [*before, *chain, *(one for one in processors if one not in before)]
    rows = 2 * torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    for place in (0, 2):
        counts = torch.zeros(40)
        for seed in range(1500):
            sampler = Sampler(Sampling(temperature=temperature, seed=seed, **options), PROMPT, 40)
            for row in rows[:place]:
                sampler.draw(row.numpy())
                if "repetition_penalty" in options:  # what came before must be the same in every trial
                    sampler._drawn[-1] = 11
            counts[sampler.draw(rows[place].numpy())] += 1
        ids = torch.tensor([PROMPT + [11] * place])
        scores = rows[place : place + 1].clone()
        for process in chain:
            scores = process(ids, scores)
        expected = scores.softmax(-1)[0]
        assert not counts[expected == 0].any()
        frequencies = counts / counts.sum()
        assert torch.allclose(frequencies, expected, atol=4.5 * math.sqrt(0.25 / 1500))


def test_presence_and_frequency_are_counted_in_the_answer_alone() -> None:
    """OpenAI's formula: logit - count * frequency - (count > 0) * presence."""
    options = {"presence_penalty": 0.5, "frequency_penalty": 0.3}
    logits = torch.tensor([2.0, 1.4, 1.0, 0.0])
    expected, counts = [], torch.zeros(4)
    for _ in range(12):
        token = int((logits - counts * 0.3 - (counts > 0) * 0.5).argmax())
        expected.append(token)
        counts[token] += 1
    assert draws(Sampling(**options), logits, 12, prompt=(0, 0, 0)) == expected
    assert len(set(expected)) > 2
    rewarded = Sampling(presence_penalty=-2.0, temperature=0)
    assert draws(rewarded, torch.tensor([1.0, 0.9]), 3, prompt=(1,)) == [0, 0, 0]


def test_bad_words_and_min_tokens_as_transformers_has_them() -> None:
    words = [(7,), (2, 3), (4, 4, 5)]
    peers = [
        transformers.NoBadWordsLogitsProcessor([list(word) for word in words], eos_token_id=None),
        transformers.MinNewTokensLengthLogitsProcessor(1, 6, [1, 9], device="cpu"),
    ]
    rows = torch.randn(400, 10, generator=torch.Generator().manual_seed(0))
    rows[:, [2, 4, 1]] += 1.5
    sampler = Sampler(Sampling(min_tokens=6), [0], 10, end_ids=(1, 9), banned=words)
    ids = [0]
    for row in rows:
        scores = row[None].clone()
        for peer in peers:
            scores = peer(torch.tensor([ids]), scores)
        assert sampler.draw(row.numpy()) == int(scores.argmax())
        ids.append(sampler._drawn[-1])
    assert not {1, 9} & set(ids[1:7]) and {1, 9} & set(ids[7:])


def test_a_seed_means_what_it_did_when_nothing_is_filtered() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(2))
    plain = draws(Sampling(temperature=1, seed=4), logits, 30)
    assert draws(Sampling(temperature=1, seed=4, top_k=50, min_p=1e-9, top_p=1.0), logits, 30) == plain
