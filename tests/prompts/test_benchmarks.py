import pytest

from fourfold.prompts.benchmarks import BOX_UNITS, WORDINGS, benchmark_prompt
from fourfold.prompts.errors import UserError


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
    assert not benchmark_prompt("hatefulmemes", text="x").startswith("[")


def test_unknown_names_and_wrong_fields_are_named():
    with pytest.raises(UserError, match="okvqa"):
        benchmark_prompt("imagenet", question="x")
    with pytest.raises(UserError, match="takes caption; got question"):
        benchmark_prompt("vsr", question="x")
    with pytest.raises(UserError, match="minigpt4, plain"):
        benchmark_prompt("okvqa", "fancy", question="x")


def test_every_wording_asks_every_benchmark_and_names_the_unit_of_boxes():
    minigpt4, plain = WORDINGS["minigpt4"], WORDINGS["plain"]
    assert set(minigpt4) == set(plain)
    assert all(form.count("{") == 1 for form in minigpt4.values())
    assert not any(form.startswith("[") for form in plain.values())
    asked = benchmark_prompt("vqav2", "plain", question="what {is} it?")
    assert asked == "what {is} it?\nAnswer the question with a single word or a short phrase."
    for unit, words in BOX_UNITS.items():
        assert words in benchmark_prompt("refcoco", "plain", box_format=unit, sent="the dog")
    for none_of_numbers in (None, "tokens"):
        with pytest.raises(UserError, match="--box-format unit, percent, pixels"):
            benchmark_prompt("detection", "plain", box_format=none_of_numbers, label="dog")


def test_every_family_is_asked_for_boxes_in_its_own_words():
    from fourfold.assistant.grounding import FAMILIES

    own = {family.name for family in FAMILIES}
    assert own == {name for name in WORDINGS if name != "plain"}
    for name in own - {"minigpt4"}:
        assert set(WORDINGS[name]) == set(WORDINGS["plain"])
        assert "a {red} ball" in benchmark_prompt("refcoco", name, sent="a {red} ball")
        assert "ball" in benchmark_prompt("detection", name, label="ball")
        assert benchmark_prompt("gqa", name, question="what?") == benchmark_prompt("gqa", "plain", question="what?")
