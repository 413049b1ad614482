"""A checkpoint that folds squares of patches, inside vLLM."""

from pathlib import Path

import pytest

from fourfold.serving.engine.engine import Completion
from tests.serving.vllm.conftest import QUESTIONS, engine
from tests.serving.vllm.test_engine import ask

pytestmark = pytest.mark.vllm


def test_same_answers_as_our_engine(
    square: tuple[Path, dict[str, Completion]], local: dict[str, Completion], adapter: Path
) -> None:
    directory, ours = square
    assert len({tuple(completion.token_ids) for completion in ours.values()}) == len(QUESTIONS)
    with engine(directory, dtype="float32") as llm:
        theirs = {name: ask(llm, *question) for name, question in QUESTIONS.items()}
    for name, completion in theirs.items():
        assert list(completion.token_ids) == ours[name].token_ids, name
        drawn = [step[token].logprob for step, token in zip(completion.logprobs, completion.token_ids, strict=True)]
        assert ours[name].logprobs is not None
        assert drawn == pytest.approx([token.logprob for token in ours[name].logprobs], abs=1e-4), name
