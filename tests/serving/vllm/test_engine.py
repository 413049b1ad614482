"""Our model class inside vLLM, in this process."""

from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fourfold.serving.engine.engine import Completion
from tests.serving.vllm.conftest import QUESTIONS, SAMPLING, engine, parts

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def llm(checkpoint: Path, local: dict[str, Completion], adapter: Path) -> Iterator[Any]:
    with engine(checkpoint, dtype="float32") as llm:
        yield llm


def test_plugin_is_found_by_its_entry_point() -> None:
    found = [point for point in entry_points(group="vllm.general_plugins") if point.name == "fourfold"]
    assert [point.value for point in found] == ["fourfold.serving.vllm.plugin:register"]


def test_one_model_class_serves_both(llm: Any) -> None:
    names = llm.apply_model(lambda model: (type(model).__name__, type(model.model).__name__))[0]
    assert names == ("TransformersMultiModalForCausalLM", "MiniGPTv2Model")


@pytest.mark.parametrize("name", QUESTIONS)
def test_same_answer_as_our_engine(name: str, llm: Any, local: dict[str, Completion]) -> None:
    ours, theirs = local[name], ask(llm, *QUESTIONS[name])
    assert list(theirs.token_ids) == ours.token_ids
    assert ours.logprobs is not None
    drawn = [step[token].logprob for step, token in zip(theirs.logprobs, theirs.token_ids, strict=True)]
    assert drawn == pytest.approx([token.logprob for token in ours.logprobs], abs=1e-4)


def test_answers_depend_on_the_images(local: dict[str, Completion]) -> None:
    """Otherwise the comparison above could not tell right images from wrong ones."""
    answers = {tuple(completion.token_ids) for completion in local.values()}
    assert len(answers) == len(QUESTIONS)


def test_prompt_is_the_same_to_the_token(llm: Any, local: dict[str, Completion]) -> None:
    for name, question in QUESTIONS.items():
        prompt = _chat(llm, *question).prompt_token_ids
        assert len(prompt) == local[name].prompt_tokens
        assert prompt.count(3) == 4 * len(question[0])


def _chat(llm: Any, images: list[Image.Image], text: str) -> Any:
    from vllm import SamplingParams

    messages = [{"role": "user", "content": parts("image_pil", "image_pil", images, text)}]
    sampling = SamplingParams(temperature=0, max_tokens=SAMPLING.max_tokens, logprobs=1)
    return llm.chat(messages, sampling, chat_template_content_format="openai", use_tqdm=False)[0]


def ask(llm: Any, images: list[Image.Image], text: str) -> Any:
    """vLLM's greedy answer, with the log-probabilities of its tokens."""
    return _chat(llm, images, text).outputs[0]
