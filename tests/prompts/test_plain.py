import pytest

from fourfold.prompts.errors import UserError
from fourfold.prompts.plain import plain_instruction, pointed_at
from fourfold.prompts.tasks import Task


@pytest.mark.parametrize("task", Task)
def test_no_task_is_asked_for_by_a_tag(task: Task) -> None:
    words = plain_instruction(task, "the dog", region=(0.1, 0.2, 0.3, 0.4))
    assert "the dog" in words and "[" not in words and "{" not in words


def test_a_family_is_asked_in_its_own_words() -> None:
    assert plain_instruction(Task.REFER, "the dog", family="qwen3-vl") == (
        "Locate the dog, output its bbox coordinates using JSON format."
    )
    assert plain_instruction(Task.DETECTION, "dog", family="paligemma") == "detect dog\n"
    assert plain_instruction(Task.REFER, "the dog", family="nobody") == plain_instruction(Task.REFER, "the dog")


def test_where_a_region_is_is_said_in_percent() -> None:
    assert "between 10 and 30 percent of its width" in pointed_at((0.1, 0.2, 0.3, 0.4))
    assert "between 20 and 40 percent of its height" in pointed_at((0.1, 0.2, 0.3, 0.4))


@pytest.mark.parametrize("task", [Task.VQA, Task.REFER, Task.DETECTION])
def test_what_needs_words_says_so(task: Task) -> None:
    with pytest.raises(UserError, match="needs"):
        plain_instruction(task, " ")
    assert plain_instruction(Task.CAPTION) and plain_instruction(Task.GROUNDING)
    with pytest.raises(UserError, match="region"):
        plain_instruction(Task.IDENTIFY, "what is it?")
