from fourfold.assistant.refine.samples import lessons_of
from fourfold.eval.refinement.slices import OUT_OF_USE, untouched_slices
from fourfold.prompts.tasks import Task
from tests.assistant.refine.test_samples import correction


def test_questions_whose_answer_was_replaced_stand_apart():
    given = [correction(str(n), rejected="red", chosen="crimson", image=f"i{n}") for n in range(3)]
    plain = untouched_slices(["scenes"], 30, kinds=("colour", "count"))
    learnt = untouched_slices(["scenes"], 30, kinds=("colour", "count"), learnt=lessons_of(given).corrected)
    assert [part.name for part in plain] == ["scenes/colour", "scenes/count"]
    assert [part.name for part in learnt] == ["scenes/colour", f"scenes/colour{OUT_OF_USE}", "scenes/count"]
    assert all(item.reference != "red" for item in learnt[0].items)
    assert {item.reference for item in learnt[1].items} == {"red"}
    # Blue is a known colour: whoever corrects red to blue mixes them up, and both stay to be judged.
    mixed = [correction(str(n), rejected="red", chosen="blue", image=f"i{n}") for n in range(3)]
    assert len(untouched_slices(["scenes"], 30, kinds=("colour",), learnt=lessons_of(mixed).corrected)) == 1


def test_images_that_are_learnt_from_are_left_out():
    (part,) = untouched_slices(["scenes"], 5, kinds=("count",))
    (other,) = untouched_slices(["scenes"], 5, kinds=("count",), without=set(part.images[:2]))
    assert len(other.items) == 5 and not set(part.images[:2]) & set(other.images)


def test_a_word_within_a_word_is_not_out_of_use():
    retired = {(Task.VQA, "re"), (Task.VQA, "square")}
    names = [part.name for part in untouched_slices(["scenes"], 40, kinds=("what",), retired=retired)]
    assert names == ["scenes/what", f"scenes/what{OUT_OF_USE}"]
