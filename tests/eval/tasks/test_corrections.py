from fourfold.assistant.refine.training.samples import training_set_of
from fourfold.eval.tasks.corrections import OUT_OF_USE, untouched_tasks
from fourfold.prompts.tasks import Task
from tests.assistant.refine.training.test_samples import correction


def test_questions_whose_answer_was_replaced_stand_apart():
    given = [correction(str(n), rejected="red", chosen="crimson", image=f"i{n}") for n in range(3)]
    plain = untouched_tasks(["scenes"], 30, kinds=("colour", "count"))
    learnt = untouched_tasks(["scenes"], 30, kinds=("colour", "count"), learnt=training_set_of(given).corrected)
    assert [part.name for part in plain] == ["scenes/colour", "scenes/count"]
    assert [part.name for part in learnt] == ["scenes/colour", f"scenes/colour{OUT_OF_USE}", "scenes/count"]
    assert all(one.reference.answer != "red" for one in learnt[0].samples)
    assert {one.reference.answer for one in learnt[1].samples} == {"red"}
    # Blue is a known colour: whoever corrects red to blue mixes them up, and both stay to be judged.
    mixed = [correction(str(n), rejected="red", chosen="blue", image=f"i{n}") for n in range(3)]
    assert len(untouched_tasks(["scenes"], 30, kinds=("colour",), learnt=training_set_of(mixed).corrected)) == 1


def test_images_that_are_learnt_from_are_left_out():
    (part,) = untouched_tasks(["scenes"], 5, kinds=("count",))
    (other,) = untouched_tasks(["scenes"], 5, kinds=("count",), without=set(part.clusters[:2]))
    assert len(other.samples) == 5 and not set(part.clusters[:2]) & set(other.clusters)


def test_a_word_within_a_word_is_not_out_of_use():
    superseded = {(Task.VQA, "re"), (Task.VQA, "square")}
    names = [part.name for part in untouched_tasks(["scenes"], 40, kinds=("what",), superseded=superseded)]
    assert names == ["scenes/what", f"scenes/what{OUT_OF_USE}"]
