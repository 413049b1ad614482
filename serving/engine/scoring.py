"""How likely given answers are, without drawing any."""

from collections.abc import Sequence

import torch

from fourfold.serving.engine.cache import PrefixCache, shared_length
from fourfold.serving.engine.kv_cache import StepInput
from fourfold.serving.engine.model_runner import ModelRunner
from fourfold.serving.engine.prompt import Prompt
from fourfold.serving.engine.requests import QueueFull


def mean_log_likelihoods(
    runner: ModelRunner, prefix_cache: PrefixCache, lora_id: int, candidates: Sequence[tuple[Prompt, int]], rows: int
) -> list[float]:
    """Mean log-probability of each candidate's own tokens; what they have in common is read once.

    Runs on the model's thread, beside the rows of running answers.

    Args:
        runner: the model.
        prefix_cache: what is known of the conversation.
        lora_id: of the adapter, which is in use.
        candidates: the conversation with the answer, and the position of the answer's first token.
        rows: candidates read at the same time.

    Raises:
        QueueFull: running answers leave no room.
    """
    first_prompt = candidates[0][0]
    shared = min(min(shared_length(first_prompt.keys, prompt.keys), first - 1) for prompt, first in candidates)
    stored = _read_prefix(runner, prefix_cache, lora_id, first_prompt, shared)
    scores: list[float] = []
    for begin in range(0, len(candidates), rows):
        scores.extend(_score(runner, lora_id, candidates[begin : begin + rows], stored, shared))
    return scores


def _read_prefix(
    runner: ModelRunner, prefix_cache: PrefixCache, lora_id: int, prompt: Prompt, shared: int
) -> torch.Tensor:
    """Keys and values of the first `shared` positions."""
    keys = prompt.keys[:shared]
    known, common = prefix_cache.longest(lora_id, keys)
    if known is not None and common == shared:
        return known.stored
    row = _admit(runner, shared)
    try:
        if known is not None:
            runner.kv_cache.write(row, known.stored, common)
        head = Prompt(prompt.ids[:shared], keys, prompt.images)
        embeds = runner.embed(head, common)
        runner.step([StepInput(row, embeds, keep=0)], lora_id)
        stored = runner.kv_cache.read(row)
    finally:
        runner.kv_cache.remove(row)
    prefix_cache.put(lora_id, keys, stored)
    return stored


def _score(
    runner: ModelRunner, lora_id: int, candidates: Sequence[tuple[Prompt, int]], stored: torch.Tensor, shared: int
) -> list[float]:
    entries: list[tuple[int, StepInput]] = []
    rows = runner.kv_cache.lengths
    occupied = len(rows)
    try:
        for index, (prompt, first) in enumerate(candidates):
            row = _admit(runner, len(prompt.ids))
            runner.kv_cache.write(row, stored, shared)
            # The last token's own successor is of no interest.
            entries.append((index, StepInput(row, runner.embed(prompt, shared)[:-1], keep=len(prompt.ids) - first)))
        entries.sort(key=lambda pair: pair[1].count > 1)
        log_probabilities = runner.step([entry for _, entry in entries], lora_id).float().log_softmax(-1)
    finally:
        while len(rows) > occupied:
            runner.kv_cache.remove(len(rows) - 1)
    scores = [0.0] * len(candidates)
    place = 0
    for index, entry in entries:
        own = torch.tensor(candidates[index][0].ids[-entry.keep :], device=runner.device)
        picked = log_probabilities[place : place + entry.keep].gather(1, own[:, None])
        scores[index] = float(picked.mean())
        place += entry.keep
    return scores


def _admit(runner: ModelRunner, tokens: int) -> int:
    """Number of a new row that may grow to `tokens`."""
    if not runner.kv_cache.admit(tokens):
        raise QueueFull("running answers leave no room to score candidates; try again later")
    return len(runner.kv_cache.lengths) - 1
