import math
from typing import Any

import pytest
import torch

from fourfold.prompts.errors import UserError
from fourfold.serving.engine.requests import Sampling
from fourfold.serving.engine.sampling import Sampler, draw_tokens, top_logprobs

CPU = torch.device("cpu")


def draws(sampling: Sampling, logits: torch.Tensor, count: int, prompt: tuple[int, ...] = (0,)) -> list[int]:
    sampler = Sampler(sampling, list(prompt), len(logits), CPU)
    return [sampler.draw(logits) for _ in range(count)]


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
    together = [Sampler(sampling, [0], 50, CPU) for sampling in ways]
    alone = [Sampler(sampling, [0], 50, CPU) for sampling in ways]
    for _ in range(5):
        expected = [sampler.draw(row) for sampler, row in zip(alone, logits, strict=True)]
        assert draw_tokens(logits, together) == expected


def test_logprobs_are_of_the_plain_softmax_and_ordered() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0])
    own, top = top_logprobs(logits, 0, 2)
    expected = torch.log_softmax(logits, -1).tolist()
    assert own == pytest.approx(expected[0])
    assert [token for token, _ in top] == [1, 2]
    assert [value for _, value in top] == pytest.approx([expected[1], expected[2]])
    assert top_logprobs(logits, 1, 0)[1] == []
