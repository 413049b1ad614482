import pytest

from fourfold.assistant.grounding import Box, parse
from fourfold.assistant.refine.record import CorrectedBox, Correction
from fourfold.assistant.refine.targets import NeedsReview, target_of

LEFT, RIGHT = Box(0.1, 0.2, 0.3, 0.4), Box(0.5, 0.2, 0.9, 0.8)
SENTENCE = "<p>A man</p> {<0><0><9><9>} holds <p>a ball</p> {<1><1><2><2>}."


def correction(question, rejected, chosen=None, boxes=None):
    content = [{"type": "image"}, {"type": "text", "text": question}]
    marked = None if boxes is None else tuple(CorrectedBox(phrase, box) for phrase, box in boxes)
    return Correction(
        messages=({"role": "user", "content": content},), rejected=rejected, chosen=chosen, boxes=marked, consent=True
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (correction("what colour is it?", "blue", " red "), "red"),
        (correction("[refer] where is the dog?", "{<1><2><3><4>}", boxes=[(None, LEFT)]), "{<10><20><30><40>}"),
        # the words belong to the page's list of boxes, not to what [refer] answers
        (correction("[refer] the dog", "no idea", boxes=[("dog", LEFT)]), "{<10><20><30><40>}"),
        (
            correction("[refer] the dogs", "{<1><2><3><4>}", boxes=[(None, RIGHT), (None, LEFT)]),
            "{<10><20><30><40>}<delim>{<50><20><90><80>}",
        ),
        (
            correction("[detection] dog", "<p>dog</p> {<1><2><3><4>}", boxes=[("dog", RIGHT), (None, LEFT)]),
            "<p>dog</p> {<10><20><30><40>}<delim>{<50><20><90><80>}",
        ),
        (correction("[detection] dog", "<p>dog</p> {<1><2><3><4>}", boxes=[]), "none"),
        (
            correction("[grounding] describe it", SENTENCE, boxes=[("a ball", RIGHT), ("a man", LEFT)]),
            "<p>A man</p> {<10><20><30><40>} holds <p>a ball</p> {<50><20><90><80>}.",
        ),
        (
            correction("[grounding] describe it", SENTENCE, "A woman waves.", boxes=[("a woman", LEFT)]),
            "<p>A woman</p> {<10><20><30><40>} waves.",
        ),
        (correction("what colour is it?", "blue", "red", boxes=[("red ball", LEFT)]), "red"),
        (correction("what colour is it?", "blue", boxes=[("red ball", LEFT)]), None),
    ],
)
def test_the_answer_is_written_as_the_model_writes_it(given, expected):
    assert target_of(given) == expected
    assert expected is None or not parse(expected).malformed


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (correction("[refer] the dog", "?", boxes=[(None, Box(0.1, 0.1, 0.1, 0.9))]), "no area"),
        (correction("[grounding] x", SENTENCE, boxes=[("a cat", LEFT)]), "'a cat'"),
        (correction("[grounding] x", SENTENCE, boxes=[(None, LEFT)]), "no words"),
        (correction("[grounding] x", SENTENCE, boxes=[("a ball", LEFT), ("ball", RIGHT)]), "overlap"),
        (correction("what?", "blue", "red <|im_end|>"), "control token"),
        (correction("[refer] it", "?", "{<90><2><3><4>}"), "malformed"),
    ],
)
def test_what_cannot_be_meant_is_doubtful(given, reason):
    with pytest.raises(NeedsReview, match=reason):
        target_of(given)
