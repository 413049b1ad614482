import json
from pathlib import Path

import pytest

from fourfold.eval.predictions import Prediction, join, read_predictions
from fourfold.prompts.errors import UserError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "predictions.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        '[{"question_id": 7, "answer": "cat"}, {"question_id": "8", "answer": "dog"}]',
        '{"id": 7, "text": "cat"}\n{"id": 8, "text": "dog"}\n',
        '{"7": "cat", "8": "dog"}',
        '{"7": {"prediction": "cat"}, "8": {"prediction": "dog"}}',
        '{"results": [{"id": 7, "prediction": "cat"}, {"id": 8, "prediction": "dog"}]}',
        '\ufeff[{"question_id": 7, "answer": "cat"}, {"question_id": 8, "answer": "dog"}]',
    ],
)
def test_every_shape_reads_alike(tmp_path: Path, text: str) -> None:
    assert [(p.id, p.answer) for p in read_predictions(write(tmp_path, text))] == [("7", "cat"), ("8", "dog")]


def test_answer_wins_over_text(tmp_path: Path) -> None:
    # In POPE's files `text` is the question.
    (prediction,) = read_predictions(write(tmp_path, '[{"id": 1, "text": "Is there a cat?", "answer": "no"}]'))
    assert prediction.answer == "no"


@pytest.mark.parametrize("field", ["prediction", "response", "output", "model_answer"])
def test_the_truth_beside_the_answer_is_not_scored(tmp_path: Path, field: str) -> None:
    """Result files of other harnesses keep the right answer, and the referent's own box, in every row."""
    rows = [{"question_id": 1, "question": "q", "answer": "gold", "bbox": [1, 2, 3, 4], field: "a guess"}]
    (prediction,) = read_predictions(write(tmp_path, json.dumps(rows)))
    assert (prediction.answer, prediction.boxes) == ("a guess", None)


def test_two_answers_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"record 1: prediction and response differ; which of them is the answer"):
        read_predictions(write(tmp_path, '[{"id": 1, "prediction": "a", "response": "b"}]'))
    (same,) = read_predictions(write(tmp_path, '[{"id": 1, "prediction": "a", "response": "a"}]'))
    assert same.answer == "a"


@pytest.mark.parametrize(
    ("answer", "read"), [(["black"], "black"), ([["black"]], "black"), (7, "7"), ("\ud83d!", "\ufffd!")]
)
def test_answers_as_samplers_write_them(tmp_path: Path, answer: object, read: str) -> None:
    (prediction,) = read_predictions(write(tmp_path, json.dumps([{"id": 1, "answer": answer}])))
    assert prediction.answer == read


def test_the_thought_is_no_answer(tmp_path: Path) -> None:
    (prediction,) = read_predictions(write(tmp_path, '{"1": "<think>a cat? no.</think> a dog"}'))
    assert prediction.answer == "a dog"


def test_lists_of_numbers_are_boxes(tmp_path: Path) -> None:
    rows = [{"id": 1, "answer": [1, 2, 3, 4]}, {"id": 2, "answer": [[1, 2, 3, 4], [5, 6, 7, 8]]}]
    one, two = read_predictions(write(tmp_path, json.dumps(rows)))
    assert (one.boxes, one.answer) == (((1, 2, 3, 4),), None)
    assert two.boxes == ((1, 2, 3, 4), (5, 6, 7, 8))


def test_several_answers_to_one_referent(tmp_path: Path) -> None:
    found = read_predictions(write(tmp_path, '{"COCO_1_2": ["{<1><2><3><4>}", "no idea"]}'))
    assert [(p.id, p.answer) for p in found] == [("COCO_1_2", "{<1><2><3><4>}"), ("COCO_1_2", "no idea")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ('[{"id": 1, "answer": "cat"}, {"id": 2, "ans', "breaks off.*line 1"),
        ('{"id": 1, "answer": "a"}\n{"id": 2, "answer": "b"}\n{"id": 3, "an', "breaks off.*line 3"),
        ('[{"id": true, "answer": "cat"}]', "record 1: an id must be"),
        ('[{"id": 1.5, "answer": "cat"}]', "an id must be"),
        ('[{"id": null, "answer": "cat"}]', "no question_id"),
        ('[{"answer": "cat"}]', "no question_id or id; its fields are answer"),
        ('[{"id": 1}]', "no answer"),
        ('[{"id": 1, "answer": {"a": 1}}]', "must be text"),
        ('[{"id": 1, "answer": ["black", "white"]}]', "the answer must be text, not a list of 2"),
        ('[{"id": 1, "answer": true}]', "must be text, not bool"),
        ('[{"id": 1, "answer": NaN}]', "record 1: the answer is the number nan; answers are text"),
        ('[{"id": 1, "answer": 2.0}]', r"record 1: the answer is the number 2\.0"),
        ('{"7": "cat", "8": "dog", "7": "cow"}', r"predictions\.json: '7' stands twice in one object"),
        ('{"id": 1, "answer": "a"}\n{"id": 2, "answer": "b", "answer": "c"}', "line 2: 'answer' stands twice"),
        ('["cat"]', "expected an object"),
        ("3", "list of records"),
        ('[{"id": 1, "box": [1, 2, 3]}]', "3 numbers"),
        ('[{"id": 1, "box": [1, 2, NaN, 4]}]', "record 1: box is nan"),
        ('[{"id": 1, "bbox": [1, 2, Infinity, 4]}]', "bbox is inf"),
        ('[{"id": 1, "box": [1, 2, "3", 4]}]', "must be a number"),
        ('[{"id": 1, "answer": "x", "scores": [1, "b"]}]', "scores must be a number"),
    ],
)
def test_bad_files_say_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_predictions(write(tmp_path, text))


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no predictions file"):
        read_predictions(tmp_path / "nowhere.json")
    (tmp_path / "picture.json").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="no UTF-8 text"):
        read_predictions(tmp_path / "picture.json")


def answers(*ids: str) -> list[Prediction]:
    return [Prediction(identifier, "x") for identifier in ids]


def test_join_names_every_mismatch_with_examples() -> None:
    with pytest.raises(UserError) as error:
        join(answers("1", "1", "2", "9"), ["1", "2", "3", "4"])
    message = str(error.value)
    assert "1 ids answered more than once (1)" in message
    assert "1 of 3 ids are not in the annotations (9)" in message
    assert "2 of 4 questions have no prediction (3, 4)" in message
    assert "\n" not in message


def test_missing_is_allowed_only_when_asked_for() -> None:
    with pytest.raises(UserError, match="--allow-missing"):
        join(answers("1"), ["1", "2"])
    assert join(answers("1"), ["1", "2"], allow_missing=True).missing == ("2",)
    with pytest.raises(UserError, match="not in the annotations"):
        join(answers("1", "9"), ["1", "2"], allow_missing=True)


def test_number_and_text_ids_are_one_question(tmp_path: Path) -> None:
    found = read_predictions(write(tmp_path, json.dumps([{"id": 5, "answer": "a"}, {"id": "5", "answer": "b"}])))
    with pytest.raises(UserError, match="answered more than once"):
        join(found, ["5"])


def test_refusals_are_seen() -> None:
    assert Prediction("1", "I'm sorry, I can't help with that.").refused
    assert not Prediction("1", "a can of soup").refused


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('[{"id": 0, "answer": ' + "1" * 5000 + "}]", "digits"),
        ('[{"id": 0, "box": [1, 2, 3, ' + "9" * 400 + "]}]", "400 digits"),
        ('[{"id": 0, "box": {"left": 1}}]', "box must be a list of four numbers"),
        ('[{"id": 0, "answer": [{"text": "dog"}]}]', "must be text, not a list of objects"),
        ('[{"id": 0, "answer": {"text": "dog"}}]', "must be text, not dict"),
    ],
)
def test_what_python_trips_over_is_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_predictions(write(tmp_path, content))


@pytest.mark.parametrize(
    "answer", [[{"bbox_2d": [1, 2, 3, 4], "label": "dog"}], {"x1": 1, "y1": 2, "x2": 3, "y2": 4}, {"dog": [1, 2, 3, 4]}]
)
def test_boxes_that_somebody_has_parsed_are_the_json_that_the_model_wrote(tmp_path: Path, answer: object) -> None:
    [found] = read_predictions(write(tmp_path, json.dumps([{"id": 0, "prediction": answer}])))
    assert found.answer is not None
    assert json.loads(found.answer) == answer
    [loose] = read_predictions(write(tmp_path, json.dumps([{"id": 0, "box_2d": [1, 2, 3, 4]}])))
    assert loose.boxes == ((1.0, 2.0, 3.0, 4.0),)
