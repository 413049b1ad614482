"""A converted release in vLLM: EVA's tower, the LLaMA prompt, and the adapter that `--keep-adapter` keeps apart."""

from collections.abc import Iterator
from typing import Any

import pytest

from fourfold.serving.engine.engine import Completion
from fourfold.serving.vllm.launch import MAX_LORA_RANK
from tests.serving.vllm.conftest import QUESTIONS, SAMPLING, KeptRelease, engine, parts

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def llm(kept_release: KeptRelease, local: dict[str, Completion]) -> Iterator[Any]:
    with engine(kept_release.directory, dtype="float32", enable_lora=True, max_lora_rank=MAX_LORA_RANK) as llm:
        yield llm


@pytest.mark.parametrize("name", QUESTIONS)
def test_same_answers_with_and_without_the_kept_adapter(name: str, llm: Any, kept_release: KeptRelease) -> None:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    messages = [{"role": "user", "content": parts("image_pil", "image_pil", *QUESTIONS[name])}]
    sampling = SamplingParams(temperature=0, max_tokens=SAMPLING.max_tokens, logprobs=1)
    for lora, ours in (
        (None, kept_release.without[name]),
        (LoRARequest("adapter", 1, str(kept_release.adapter)), kept_release.adapted[name]),
    ):
        theirs = llm.chat(messages, sampling, chat_template_content_format="openai", lora_request=lora, use_tqdm=False)[
            0
        ]
        assert len(theirs.prompt_token_ids) == ours.prompt_tokens
        assert list(theirs.outputs[0].token_ids) == ours.token_ids
        drawn = [step[token].logprob for step, token in zip(theirs.outputs[0].logprobs, ours.token_ids, strict=True)]
        assert ours.logprobs is not None
        assert drawn == pytest.approx([token.logprob for token in ours.logprobs], abs=1e-4)


def test_one_bos_where_it_is_asked_for(llm: Any) -> None:
    """As the release's script for IconVQA has it: `fourfold eval run iconvqa --recipe minigpt-v2`."""
    from vllm import SamplingParams

    def prompt(**variables: bool) -> list[int]:
        messages = [{"role": "user", "content": "yes"}]
        return llm.chat(messages, SamplingParams(max_tokens=1), chat_template_kwargs=variables or None, use_tqdm=False)[
            0
        ].prompt_token_ids

    two, one = prompt(), prompt(double_bos=False)
    assert two[:2] == [1, 1] and two[1:] == one == prompt(double_bos=True)[1:]


def test_the_adapter_matters(kept_release: KeptRelease) -> None:
    """Otherwise the comparison could not tell whether it was there."""
    for name in QUESTIONS:
        assert kept_release.without[name].token_ids != kept_release.adapted[name].token_ids
