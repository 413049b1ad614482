"""The whole loop: with a model that sees, one that fails, one that talks nonsense, and through a real endpoint."""

import threading
import time

import pytest

from fourfold.assistant.chat.conversation import connect
from fourfold.assistant.chat.look_again import Budget, Sighting, ask_with, look_again, with_images
from fourfold.assistant.grounding import Box, parse
from tests.assistant.chat.look_again.world import SeeingModel, scene

QUESTION = "[caption] describe this image briefly"
IMAGE = scene(red=(100, 100, 200, 200), blue=(600, 500, 700, 600))
ANSWER = "A red square, a green square and a blue square."


def test_check_tells_what_is_there_from_what_is_not():
    looked = look_again(SeeingModel(), IMAGE, QUESTION, ANSWER, check_claims=True, rewrite=True)
    assert [(c.claim.thing, c.verdict) for c in looked.claims] == [
        ("red square", "supported"),
        ("green square", "unsupported"),
        ("blue square", "supported"),
    ]
    assert looked.answer == "A red square and a blue square."
    assert looked.first == ANSWER
    red, green, _ = looked.claims_json()
    assert red["box"] == pytest.approx([0.1, 0.12, 0.2, 0.25], abs=0.011)
    assert (green["phrase"], green["box"]) == ("a green square", None)
    assert green["evidence"] == ["is it there: no", "where is it: none"]
    assert (looked.calls, looked.stopped) == (4 + 2 + 4, None)


def test_check_looks_at_the_crop_of_the_box_at_full_resolution():
    model = SeeingModel()
    look_again(model, IMAGE, QUESTION, "A <p>red square</p> {<10><12><20><25>}.", check_claims=True)
    whole, close, identify = model.asked
    assert (whole[0], whole[1]) == ("[vqa] is there a red square in the image?", (1000, 800))
    assert close == (whole[0], (200, 160))
    assert identify[0] == "[identify] what object is in this location {<10><12><20><25>}"


def test_other_eyes_are_one_more_witness():
    box = Box(0.1, 0.12, 0.2, 0.25)
    seen = {
        "red square": Sighting(0.9, box, "read-out"),
        "green square": Sighting(0.5, None, "read-out"),
        "blue square": Sighting(0.05, Box(0, 0, 1, 1), "read-out"),
    }
    model = SeeingModel()
    looked = look_again(model, IMAGE, QUESTION, ANSWER, check_claims=True, see=seen.get)
    red, green, blue = looked.claims
    assert red.evidence[0] == "seen by read-out: 90% likely there"
    assert (red.verdict, red.box) == ("supported", box)
    assert "[detection] red square" not in [text for text, _ in model.asked]  # its place is known
    assert green.verdict == "unsupported"  # one half speaks neither for it nor against it
    assert blue.evidence[0] == "seen by read-out: 5% likely there" and "[detection] blue square" in str(model.asked)
    assert blue.verdict == "supported"  # four looks of the model that agree outweigh it
    assert looked.calls == 3 + 2 + 4
    alone = look_again(SeeingModel(), IMAGE, QUESTION, ANSWER, check_claims=True, see=lambda thing: None)
    assert alone.calls == 4 + 2 + 4


def test_a_wrong_box_and_a_wrong_no_are_noticed():
    wrong_box = "A <p>red square</p> {<50><0><70><10>}."
    [claim] = look_again(SeeingModel(), IMAGE, QUESTION, wrong_box, check_claims=True).claims
    assert claim.verdict == "unsupported"
    looked = look_again(
        SeeingModel(), IMAGE, "[vqa] is there a red square in the image?", "no", check_claims=True, rewrite=True
    )
    assert looked.claims[0].verdict == "unsupported"
    assert looked.claims_json()[0]["phrase"] == "no red square"
    assert looked.answer == "yes"
    assert looked.calls == 3  # the first answer is one of the four looks
    right = look_again(SeeingModel(), IMAGE, "is there a green square?", "No.", check_claims=True, rewrite=True)
    assert (right.claims[0].verdict, right.answer) == ("supported", "No.")


def test_looking_closer_asks_about_the_region_and_gives_boxes_of_the_whole():
    model = SeeingModel()
    looked = look_again(model, IMAGE, "[refer] give me the location of the red square", "{<5><8><30><30>}", closer=True)
    assert looked.closer.changed
    [phrase] = parse(looked.answer).phrases
    assert phrase.boxes[0].iou(Box(0.1, 0.125, 0.2, 0.25)) > 0.8
    assert model.asked[-1][1] < IMAGE.size
    model = SeeingModel()
    looked = look_again(model, IMAGE, "[vqa] is the red square big?", "no", closer=True)
    assert [text for text, _ in model.asked] == [
        "[refer] give me the location of the red square",
        "[vqa] is the red square big?",
    ]
    assert (looked.answer, looked.closer.changed) == ("yes", True)


def test_nothing_to_look_closer_at():
    for question, answer in [("[vqa] what is this?", "x"), ("[vqa] is the green square big?", "no")]:
        looked = look_again(SeeingModel(), IMAGE, question, answer, closer=True)
        assert (looked.closer, looked.answer) == (None, answer)
    everything = scene(red=(0, 0, 1000, 800))
    assert (
        look_again(SeeingModel(), everything, "[refer] the red square", "{<0><0><99><99>}", closer=True).closer is None
    )


def test_agreement():
    looked = look_again(SeeingModel(), IMAGE, "[vqa] how many red squares are there?", "1", agreement=True)
    assert (looked.agreement.count, looked.agreement.present, len(looked.agreement.boxes)) == (1, True, 1)
    assert looked.agreement.agrees is True

    def liar(messages, images):
        text = messages[0]["content"][1]["text"]
        return "two" if "how many" in text else SeeingModel()(messages, images)

    looked = look_again(liar, IMAGE, "[vqa] how many red squares are there?", "2", agreement=True)
    assert looked.agreement.agrees is False
    assert "contradict" in looked.agreement.text
    looked = look_again(lambda m, i: "fish", IMAGE, "how many red squares are there?", "2", agreement=True)
    assert looked.agreement.agrees is None


def test_every_step_is_seen_as_it_happens():
    seen = []
    looked = look_again(SeeingModel(), IMAGE, QUESTION, ANSWER, check_claims=True, on_step=seen.append)
    assert seen == looked.steps
    assert [s.kind for s in seen] == ["asked"] * 4 + ["verdict"] + ["asked"] * 2 + ["verdict"] + ["asked"] * 4 + [
        "verdict"
    ]
    assert [s.calls for s in seen if s.kind == "asked"] == list(range(1, 11))
    assert seen[2].box is not None
    assert seen[0].question.startswith("[vqa] is there")
    assert seen[0].answer == "yes"


def test_budgets():
    looked = look_again(SeeingModel(), IMAGE, QUESTION, ANSWER, check_claims=True, budget=Budget(calls=5))
    assert (looked.calls, looked.stopped) == (5, "the budget of 5 questions is spent")
    assert [c.verdict for c in looked.claims] == ["supported", "unsure", "unsure"]
    assert "not looked at" in looked.claims[2].evidence[0]
    assert looked.steps[-1].kind == "stopped"

    def slow(messages, images):
        time.sleep(0.2)
        return SeeingModel()(messages, images)

    looked = look_again(slow, IMAGE, QUESTION, ANSWER, check_claims=True, budget=Budget(seconds=0.5))
    assert looked.stopped == "the budget of 0.5 seconds is spent"
    assert 1 <= looked.calls <= 3
    assert looked.seconds < 5


def test_cancelling_stops_before_the_next_question():
    cancel = threading.Event()
    looked = look_again(
        SeeingModel(), IMAGE, QUESTION, ANSWER, check_claims=True, rewrite=True, cancel=cancel,
        on_step=lambda step: step.calls == 2 and cancel.set(),
    )  # fmt: skip
    assert (looked.calls, looked.stopped, looked.answer) == (2, "cancelled", ANSWER)
    assert {c.verdict for c in looked.claims} == {"unsure"}


@pytest.mark.parametrize(
    "nonsense", ["", "fish", "yes no yes", "{<1><2><3><400>}", "<p><p></p>{<9>", "é\n" * 5000, "[/INST]"]
)
def test_a_model_that_answers_nonsense(nonsense):
    answer = "A <p>red square</p> {<10><12><20><25>} and a blue square."
    looked = look_again(
        lambda messages, images: nonsense, IMAGE, QUESTION, answer, check_claims=True, closer=True, agreement=True
    )
    assert not any(c.verdict == "unsupported" and "yes" not in nonsense for c in looked.claims)
    lines = [step.text for step in looked.steps] + [line for c in looked.claims for line in c.evidence]
    assert all("\n" not in line and len(line) <= 200 for line in lines)
    assert look_again(lambda m, i: nonsense, IMAGE, nonsense, nonsense, check_claims=True, closer=True, rewrite=True)


def test_an_endpoint_that_fails_in_the_third_of_five_calls(endpoint):
    server = endpoint(["yes", "<p>red square</p> {<10><12><20><25>}", 500, "red square", "no", "none"])
    ask = ask_with(connect(server.url, max_retries=0))
    looked = look_again(ask, IMAGE, QUESTION, "A red square and a green square.", check_claims=True)
    assert [c.verdict for c in looked.claims] == ["supported", "unsupported"]
    assert "seen close by: no answer" in looked.claims[0].evidence[2]
    assert [s.kind for s in looked.steps].count("failed") == 1
    assert looked.stopped is None
    part = server.requests[0]["messages"][0]["content"][0]
    assert part["image_url"]["url"].startswith("data:image/png;base64,")


def test_an_endpoint_that_stays_down_leaves_the_answer_alone(endpoint):
    server = endpoint(lambda body: 500)
    ask = ask_with(connect(server.url, max_retries=0))
    looked = look_again(ask, IMAGE, QUESTION, ANSWER, check_claims=True, closer=True, rewrite=True)
    assert (looked.answer, looked.calls, looked.stopped) == (ANSWER, 2, "the model failed twice running")
    assert {c.verdict for c in looked.claims} == {"unsure"}


def test_with_images_fills_the_parts_in_order():
    messages = [
        {"role": "system", "content": "x"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}, {"type": "image"}]},
    ]
    first, second = scene(), scene(red=(0, 0, 1, 1))
    filled = with_images(messages, [first, second])
    assert filled[0] == messages[0]
    assert filled[1]["content"][0]["image"] is first
    assert filled[1]["content"][2]["image"] is second
    for images in ([first], [first, second, first]):
        with pytest.raises(ValueError, match="image"):
            with_images(messages, images)
