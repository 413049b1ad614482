"""Which pictures go with a question, and what becomes of words that cannot be asked yet."""

import io
from pathlib import Path

from PIL import Image
from streamlit.testing.v1 import AppTest

from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.images import Attachment, Document
from fourfold.ui.state.settings import Settings
from fourfold.ui.views.pictures import add_pictures
from tests.assistant.images.test_isolated import pdf
from tests.ui.scripted import Scripted
from tests.ui.test_page import APP, keys, press, run, until, words


def picture(colour: str) -> Attachment:
    out = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(out, "PNG")
    return Attachment(out.getvalue(), f"{colour}.png")


def page_with(*pending: Attachment, documents: tuple[Document, ...] = ()) -> AppTest:
    """A tab in which pictures wait."""
    app = run(AppTest.from_file(str(APP), default_timeout=60))
    app.session_state.session.pending = list(pending)
    app.session_state.session.documents = list(documents)
    return run(app)


def ask(app: AppTest, text: str) -> AppTest:
    app.chat_input[0].set_value(text)
    return run(app)


def sent(endpoint: Scripted) -> list[bytes]:
    """The pictures of the last question."""
    content = endpoint.requests[-1]["messages"][-1]["content"]
    parts = [] if isinstance(content, str) else content
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [Attachment.from_data_uri(url).content for url in urls]


RED, LIME, BLUE = (picture(colour) for colour in ("red", "lime", "blue"))


def test_one_picture_at_a_time_goes_to_a_model_that_was_taught_so(settings: Settings, endpoint: Scripted) -> None:
    app = page_with(RED, LIME, BLUE)
    assert "**picture 3** is asked about" in words(app)
    press(app, "choose-1")
    assert "**picture 2** is asked about" in words(app)
    until(ask(app, "is there a ball?"), lambda app: "up-0" in keys(app))
    assert sent(endpoint) == [LIME.content]
    until(ask(app, "what is in the first picture?"), lambda app: "up-2" in keys(app))
    assert sent(endpoint) == [RED.content]
    assert endpoint.requests[-1]["messages"][-1]["content"][-1]["text"] == "what is in the picture?"
    assert "what is in the first picture?" in words(app) and "what is in the picture?" not in words(app)
    until(ask(app, "and what else?"), lambda app: "up-4" in keys(app))
    assert sent(endpoint) == []
    assert [one.name for one in app.session_state.session.pending] == ["red.png", "lime.png", "blue.png"]
    app = page_with(RED, LIME)
    until(ask(app, "what is in picture 1?"), lambda app: "up-0" in keys(app))
    assert sent(endpoint) == [RED.content] and "written" not in endpoint.requests[-1]["messages"][-1]
    titles = [info.title for info in ChatHistory(settings.history).conversations()]
    assert "what is in picture 1?" in titles and "what is in the picture?" not in titles


def test_what_one_picture_at_a_time_cannot_answer_is_said_and_its_words_stay(settings: Settings) -> None:
    app = ask(page_with(RED, LIME), "compare picture 1 with picture 2")
    assert "looks at one picture at a time" in "".join(str(toast.value) for toast in app.toast)
    assert app.chat_input[0].value == "compare picture 1 with picture 2" or (
        app.session_state["composer"] == "compare picture 1 with picture 2"
    )


def test_all_pictures_go_to_any_other_model_in_their_order(tmp_path: Path) -> None:
    from fourfold.ui.state.settings import configure

    server = Scripted(models=("Qwen/Qwen3-VL-8B",)).start()
    try:
        configure(Settings(server.url, history=tmp_path / "h.sqlite", corrections=tmp_path / "refine"))
        app = page_with(RED, LIME)
        assert "All 2 pictures go with the question, in this order." in words(app)
        until(ask(app, "compare picture 1 with picture 2"), lambda app: "up-0" in keys(app))
        assert sent(server) == [RED.content, LIME.content]
        assert app.session_state.session.pending == []
    finally:
        server.shutdown()
        server.server_close()


def test_pages_are_chosen_until_a_question_is_full(settings: Settings) -> None:
    pages = [Image.new("RGB", (60, 40), colour) for colour in ("red", "blue")]
    app = page_with(documents=(Document.read(pdf(*pages), "report.pdf"),))
    assert "2 pages" in words(app) and "What shall we look at" not in words(app)
    press(app, "add-page-0-2")
    assert [one.name for one in app.session_state.session.pending] == ["report.pdf, page 2"]
    app.session_state.session.pending = [RED] * 10
    press(app, "add-page-0-1")
    assert len(app.session_state.session.pending) == 10
    press(app, "document-done-0")
    assert app.session_state.session.documents == []


def test_words_that_come_too_early_wait(settings: Settings, endpoint: Scripted) -> None:
    endpoint.pause = 0.05
    app = ask(run(AppTest.from_file(str(APP), default_timeout=60)), "tell me a long story")
    app = ask(app, "how many are there?")
    assert "Asked when this answer is complete: how many are there?" in words(app)
    assert len(endpoint.requests) == 1
    press(app, "stop")
    until(app, lambda app: "up-0" not in keys(app) and len(endpoint.requests) == 2)
    assert endpoint.requests[-1]["messages"][-1]["content"] == "how many are there?"


def test_what_a_model_is_poor_at_is_marked(settings: Settings, endpoint: Scripted) -> None:
    endpoint.card = {"line": "x", "tasks": {"refer": {"level": "poor", "note": "3 of 100 boxes right"}}}
    app = page_with(RED)
    options = [option for group in app.get("button_group") for option in group.proto.options]
    assert {option.content for option in options if option.content_icon == ":material/warning:"} == {"Find"}
    app.session_state["task"] = "refer"
    assert "3 of 100 boxes right" in words(run(app))


def test_a_file_that_is_no_picture_is_named_until_something_else_is_done(settings: Settings) -> None:
    app = page_with(RED)
    add_pictures(app.session_state.session, [("notes.txt", b"no picture")])
    [told] = [warning.value for warning in run(app).warning]
    assert "is not an image" in told
    assert [warning.value for warning in run(app).warning] == [told]  # longer than a toast
    until(ask(app, "is there a ball?"), lambda app: "up-0" in keys(app))
    assert not app.warning
