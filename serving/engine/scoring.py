"""How likely given answers are, without drawing any."""

from collections.abc import Sequence

import torch

from fourfold.serving.engine.cache import PrefixCache, shared_length
from fourfold.serving.engine.model_runner import ModelRunner, StepInput
from fourfold.serving.engine.prompt import Prompt
from fourfold.serving.engine.requests import QueueFull


def mean_log_likelihoods(
    runner: ModelRunner, prefixes: PrefixCache, adapter: int, candidates: Sequence[tuple[Prompt, int]], rows: int
) -> list[float]:
    """Mean log-probability of each candidate's own tokens; what they have in common is read once.

    Runs on the model's thread, beside the rows of running answers.

    Args:
        runner: the model.
        prefixes: what is known of the conversation.
        adapter: serial of the adapter, which is in use.
        candidates: the conversation with the answer, and the position of the answer's first token.
        rows: candidates read at the same time.

    Raises:
        QueueFull: running answers leave no room.
    """
    first_prompt = candidates[0][0]
    shared = min(min(shared_length(first_prompt.keys, prompt.keys), first - 1) for prompt, first in candidates)
    stored = _read_prefix(runner, prefixes, adapter, first_prompt, shared)
    scores: list[float] = []
    for begin in range(0, len(candidates), rows):
        scores.extend(_score(runner, adapter, candidates[begin : begin + rows], stored, shared))
    return scores


def _read_prefix(runner: ModelRunner, prefixes: PrefixCache, adapter: int, prompt: Prompt, shared: int) -> torch.Tensor:
    """Keys and values of the first `shared` positions."""
    keys = prompt.keys[:shared]
    known, common = prefixes.longest(adapter, keys)
    if known is not None and common == shared:
        return known.stored
    row = _admit(runner, shared)
    try:
        if known is not None:
            runner.slots.write(row, known.stored, common)
        head = Prompt(prompt.ids[:shared], keys, prompt.images)
        embeds = runner.embed(head, common)
        runner.step([StepInput(row, embeds, keep=0)], adapter)
        stored = runner.slots.read(row)
    finally:
        runner.slots.remove(row)
    prefixes.put(adapter, keys, stored)
    return stored


def _score(
    runner: ModelRunner, adapter: int, candidates: Sequence[tuple[Prompt, int]], stored: torch.Tensor, shared: int
) -> list[float]:
    works: list[tuple[int, StepInput]] = []
    try:
        for index, (prompt, first) in enumerate(candidates):
            row = _admit(runner, len(prompt.ids))
            works.append((index, StepInput(row, keep=len(prompt.ids) - first)))
            runner.slots.write(row, stored, shared)
            # The last token's own successor is of no interest.
            embeds = runner.embed(prompt, shared)[:-1]
            works[-1] = (index, StepInput(row, embeds, keep=len(prompt.ids) - first))
        works.sort(key=lambda pair: pair[1].count > 1)
        log_probabilities = runner.step([work for _, work in works], adapter).float().log_softmax(-1)
    finally:
        for _ in works:
            runner.slots.remove(len(runner.slots.lengths) - 1)
    scores = [0.0] * len(candidates)
    place = 0
    for index, work in works:
        own = torch.tensor(candidates[index][0].ids[-work.keep :], device=runner.device)
        picked = log_probabilities[place : place + work.keep].gather(1, own[:, None])
        scores[index] = float(picked.mean())
        place += work.keep
    return scores


def _admit(runner: ModelRunner, tokens: int) -> int:
    """Number of a new row that may grow to `tokens`."""
    if not runner.slots.admit(tokens):
        raise QueueFull("running answers leave no room to score candidates; try again later")
    return len(runner.slots.lengths) - 1
