import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import INSTRUCTIONS, Task, instruction, parse_task, with_tag


def test_pools_have_the_sizes_of_the_original_and_no_repeats():
    sizes = {task.value: len(pool) for task, pool in INSTRUCTIONS.items()}
    assert sizes == {"vqa": 2, "caption": 17, "refer": 7, "grounding": 4, "detection": 1, "identify": 7}
    for pool in INSTRUCTIONS.values():
        assert len(set(pool)) == len(pool)


def test_canonical_instructions():
    assert instruction(Task.VQA, "is there a dog?") == "[vqa] is there a dog?"
    assert instruction(Task.REFER, "the red car") == "[refer] give me the location of the red car"
    assert instruction(Task.IDENTIFY, "{<1><2><3><4>}") == "[identify] what object is in this location {<1><2><3><4>}"
    assert instruction(Task.GROUNDING) == "[grounding] please describe this image in details"
    assert instruction(Task.DETECTION, "all dogs") == "[detection] all dogs"
    assert instruction(Task.CAPTION, "describe the dog") == "[caption] describe the dog"


@given(st.sampled_from(Task), st.integers(0, 40), st.text(min_size=1).filter(str.strip))
def test_every_instruction_starts_with_its_tag_and_keeps_the_text(task, index, text):
    asked = instruction(task, text, index=index)
    assert asked.startswith(task.tag + " ")
    assert text.strip() in asked


@pytest.mark.parametrize("task", [Task.VQA, Task.REFER, Task.DETECTION, Task.IDENTIFY])
def test_a_task_that_needs_words_says_so(task):
    with pytest.raises(UserError, match="needs"):
        instruction(task, "  ")


def test_parse_task():
    assert parse_task("vqa") is parse_task("[VQA]") is Task.VQA
    with pytest.raises(UserError, match="vqa, caption, refer, grounding, detection, identify"):
        parse_task("segment")


def test_with_tag_leaves_a_tagged_question_alone():
    assert with_tag(Task.VQA, "is there a dog?") == "[vqa] is there a dog?"
    assert with_tag(Task.VQA, "[refer] the dog") == "[refer] the dog"
    assert with_tag(Task.VQA, "[verse] 1") == "[vqa] [verse] 1"
