import pytest

from prompts.benchmarks import BENCHMARK_PROMPTS, benchmark_prompt
from prompts.errors import UserError


def test_the_prompts_of_the_original():
    short = "[vqa] Based on the image, respond to this question with a short answer: What is THIS?"
    assert benchmark_prompt("okvqa", question="What is THIS?") == short
    assert benchmark_prompt("gqa", question="What is THIS?") == short
    assert benchmark_prompt("vizwiz", question="What is THIS?") == (
        short + " and reply 'unanswerable' when the provided information is insufficient"
    )
    assert benchmark_prompt("vsr", caption="The cat is left of the dog.") == (
        "[vqa] Based on the image, is this statement true or false? The cat is left of the dog."
    )
    assert benchmark_prompt("refcoco", sent="left {guy}") == "[refer] give me the location of left {guy}"
    assert not benchmark_prompt("hateful_memes", text="x").startswith("[")


def test_unknown_names_and_wrong_fields_are_named():
    with pytest.raises(UserError, match="okvqa"):
        benchmark_prompt("imagenet", question="x")
    with pytest.raises(UserError, match="takes caption; got question"):
        benchmark_prompt("vsr", question="x")
    assert all(form.count("{") == 1 for form in BENCHMARK_PROMPTS.values())
