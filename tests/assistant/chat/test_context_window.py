import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from fourfold.assistant.chat.context_window import estimate_tokens, images_allowed, trim

IMAGES = [{"type": "image_url", "image_url": {"url": f"data:{i}"}} for i in range(5)]


def parts(messages):
    return [p for m in messages if not isinstance(m.content, str) for p in m.content if p["type"] == "image_url"]


def user(words, images):
    return HumanMessage([*images, {"type": "text", "text": words}] if images else words)


TURN = st.tuples(
    st.text("abc 1<", min_size=1), st.lists(st.sampled_from(IMAGES), max_size=2), st.text("xyz 2", max_size=50)
)


@given(st.lists(TURN, max_size=8), TURN, st.integers(0, 800), st.booleans())
def test_images_system_and_question_stay_and_roles_alternate(turns, last, limit, has_system):
    messages = [SystemMessage("be kind")] if has_system else []
    for words, images, answer in turns:
        messages += [user(words, images), AIMessage(answer)]
    messages.append(user(last[0], last[1]))
    kept = trim(messages, limit, image_tokens=50)
    every = parts(messages)
    assert parts(kept) == every[len(every) - len(parts(kept)) :]  # the latest
    assert len(parts(kept)) == len(every) or (len(kept) == 1 + has_system and parts(kept))
    assert [m.type for m in kept] == ["system"] * has_system + ["human", "ai"] * ((len(kept) - has_system) // 2) + [
        "human"
    ]
    assert kept[-1].text == messages[-1].text
    assert kept[1 + has_system :] == messages[len(messages) - len(kept) + 1 + has_system :]  # the newest, unchanged
    fits = sum(estimate_tokens(m, 50) for m in kept) <= limit
    assert fits or (len(kept) == 1 + has_system and len(parts(kept)) <= 1)
    if sum(estimate_tokens(m, 50) for m in messages) <= limit:
        assert kept == messages


def test_an_answer_that_opens_the_conversation_is_a_turn_of_its_own():
    messages = [AIMessage("hello " * 100), HumanMessage("q")]
    assert trim(messages, 50, 10) == messages[1:]
    assert trim(messages, 5000, 10) == messages


@pytest.mark.parametrize(
    ("status", "words", "sent", "most"),
    [
        (400, "more than 16 images in one request; leave some out", 17, 16),
        (400, "At most 1 image(s) may be provided in one prompt.", 3, 1),
        (400, "You may provide at most 4 image(s) in one prompt, but 7 were given", 7, 4),
        (400, "Too many images in request. Max is 50.", 60, 50),
        (422, "This model takes only one image per request", 3, 1),
        (400, "Too many images", 9, 4),
        (413, "Request Entity Too Large", 9, 4),
        (400, "The image exceeds the limit of 20 MB", 3, None),
        (400, "the context is too long: 5000 tokens at most", 3, None),
        (400, "At most 1 image(s) may be provided in one prompt.", 1, None),
    ],
)
def test_how_many_images_an_endpoint_takes_is_read_from_its_refusal(status, words, sent, most):
    assert images_allowed(status, words, sent) == most
