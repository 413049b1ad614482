"""Small things that the page is made of."""

import json
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from fourfold.assistant.chat.history import InMemoryHistory
from fourfold.assistant.chat.stored_message import image_of
from fourfold.assistant.grounding import Box, parse
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.record import check
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task
from fourfold.serving.looking.claim import Claim
from fourfold.ui.state.asking import words_for
from fourfold.ui.state.boxes import BoxAnnotation, annotate
from fourfold.ui.state.corrections import changes, named, record, said
from fourfold.ui.state.endpoint import Endpoint, Served
from fourfold.ui.state.local_server import LocalServer
from fourfold.ui.state.preferences import Preferences
from fourfold.ui.state.session import Session
from fourfold.ui.state.settings import Settings
from fourfold.ui.state.turns import region_of, split_tag, turns_of
from fourfold.ui.views.answer import figures_line
from fourfold.ui.views.markdown import answer_markdown, plain
from fourfold.ui.views.welcome import SAMPLES

TABLE = Attachment.from_path(SAMPLES[0].file)
BOX = Box(0.1, 0.2, 0.3, 0.4)


def question(text: str) -> HumanMessage:
    image = {"type": "image_url", "image_url": {"url": TABLE.data_uri}}
    return HumanMessage([image, {"type": "text", "text": text}])


@pytest.mark.parametrize(
    ("task", "text", "region", "words"),
    [
        (None, " what is this? ", None, "what is this?"),
        (None, "what is this?", BOX, "what is this? {<10><20><30><40>}"),
        (None, "[vqa] is it red?", None, "[vqa] is it red?"),
        (Task.REFER, "the dog", None, "[refer] give me the location of the dog"),
        (Task.REFER, "[detection] dog", None, "[detection] dog"),
        (Task.CAPTION, "", None, "[caption] describe this image briefly"),
        (Task.IDENTIFY, "", BOX, "[identify] what object is in this location {<10><20><30><40>}"),
        (Task.IDENTIFY, "which breed?", BOX, "[identify] which breed? {<10><20><30><40>}"),
        (Task.VQA, "is it red?", BOX, "[vqa] is it red? {<10><20><30><40>}"),
    ],
)
def test_words_for(task, text, region, words) -> None:
    assert words_for(task, text, region) == words


@pytest.mark.parametrize(("task", "region"), [(None, BOX), (Task.REFER, None), (Task.IDENTIFY, None), (Task.VQA, None)])
def test_what_is_missing_is_asked_for(task, region) -> None:
    with pytest.raises(UserError):
        words_for(task, " ", region)


def test_other_models_are_asked_in_plain_words() -> None:
    qwen, unknown = Served("Qwen/Qwen3-VL-8B"), Served("house-model")
    assert words_for(Task.REFER, "the dog", None, qwen).startswith("Locate the dog")
    assert words_for(Task.CAPTION, "", None, unknown) == "Describe the picture in one or two sentences."
    for task in (None, Task.IDENTIFY, Task.VQA):
        words = words_for(task, "what is it?", BOX, unknown)
        assert "between 10 and 30 percent of its width" in words and "{" not in words and "[" not in words
    with pytest.raises(UserError, match="rectangle"):
        words_for(Task.IDENTIFY, "", None, unknown)
    for ours in (Served("fourfold-mini"), Served("out", ours=True), Served("tuned", parent="fourfold-mini")):
        assert words_for(Task.REFER, "the dog", None, ours) == words_for(Task.REFER, "the dog", None)


def test_tags_and_regions_are_read_back() -> None:
    assert split_tag("[refer] the dog") == (Task.REFER, "the dog")
    assert split_tag("[other] the dog") == (None, "[other] the dog")
    assert region_of("what is this? {<10><20><30><40>}") == BOX
    assert region_of("in 10 20 30 40 words") is None


def test_plain_leaves_no_sign_with_a_meaning() -> None:
    text = "*a* _b_ [c](http://x) <b> $d$ :red[e] `f` # g\n1. h | i ~j~ ![k](l) 12:30"
    shown = plain(text)
    for sign in "*_[]<>$:`#|~!()":
        assert sign not in shown.replace("\\" + sign, "")
    assert "  \n" in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("**a**\n- b", "**a**\n- b"),
        ("it costs $5, not $6", "it costs \\$5, not \\$6"),
        ("![x](http://a/b.png)", "\\![x] (<http://a/b.png>)"),
        ("[bank](http://evil)", "[bank] (<http://evil>)"),
        ("[bank](javascript:x)", "[bank] \\(javascript:x\\)"),
        ("see http://127.0.0.1:8000/v1 now", "see http://127.0.0.1:8000/v1 now"),
        ("http://a:red[x] http://a/:red[x]", "http://a\\:red[x] http://a/\\:red[x]"),
        ("<img src=x>", "&lt;img src=x>"),
        (":red[x] :smile:", "\\:red[x] \\:smile:"),
        ("at 12:30 in 3:1", "at 12:30 in 3:1"),
        ("`a < $b`", "`a < $b`"),
        ("[x]: http://evil\n![y][x]", "\\[x]\\: http://evil\n\\![y][x]"),
    ],
)
def test_answer_markdown(text: str, shown: str) -> None:
    assert answer_markdown(text) == shown


def test_an_answers_words_and_marks_share_their_groups() -> None:
    answer = parse(
        "<p>a dog</p> {<1><2><3><4>} and <p>a cat</p> {<5><6><7><8>}<delim>{<9><9><9><9>}, <p>A dog</p> {<0><0><1><1>}"
    )
    pieces, marks = annotate(answer)
    assert [(m.label, m.group) for m in marks] == [("a dog", 0), ("a cat", 1), ("a cat", 1), ("A dog", 0)]
    assert [piece.get("group") for piece in pieces if piece["text"].strip(" ,")] == [0, None, 1, 0]
    assert "".join(piece["text"] for piece in pieces) == "a dog and a cat, A dog"


def test_boxes_without_words_are_named_by_the_question() -> None:
    _, [mark] = annotate(parse("{<10><20><30><40>}"), "[refer] give me the location of the red ball")
    assert mark.label == "red ball"
    _, [mark] = annotate(parse("{<10><20><30><40>}"), "hello")
    assert mark.label is None


@pytest.mark.parametrize("entry", [None, {}, {"label": 1, "group": 0, "box": [0, 0, "x", 1]}, {"group": 0, "box": []}])
def test_nonsense_from_the_browser_is_no_box(entry) -> None:
    assert BoxAnnotation.read(entry) is None


def test_boxes_from_the_browser_are_cut_to_the_picture() -> None:
    assert BoxAnnotation.read({"label": " cup ", "group": 2, "box": [-0.1, 0.2, 1.4, 0.5]}) == BoxAnnotation(
        Box(0, 0.2, 1, 0.5), "cup", 2
    )
    assert BoxAnnotation.read({"label": "", "group": 0, "box": [0.5, 0, 0.4, 1]}) is None


def conversation(answer: str = "<p>a dog</p> {<10><20><30><40>}"):
    figures = {"model": "fourfold-refined", "adapts": "fourfold-mini", "parameters": {"temperature": 0.0, "seed": None}}
    return turns_of(
        [
            question("what is it?"),
            AIMessage("a table"),
            HumanMessage("never answered"),
            HumanMessage("[refer] the dog"),
            AIMessage(answer, response_metadata={"fourfold": figures}),
        ]
    )


def test_a_record_is_what_the_store_takes(tmp_path: Path) -> None:
    turns = conversation()
    correction = record(turns, turns[-1], verdict="down", consent=True, marks=[BoxAnnotation(BOX, "a cat")])
    check(correction)
    assert [message["role"] for message in correction.messages] == ["user", "assistant", "user"]
    assert correction.messages[0]["content"][0] == {"type": "image"}
    assert correction.question == "[refer] the dog"
    assert (correction.model, correction.adapter) == ("fourfold-mini", "fourfold-refined")
    found = Session(Settings("http://127.0.0.1:9/v1", corrections=tmp_path), Preferences())
    kept = found.store.add(correction, TABLE)
    assert found.judged[said(turns[-1])].id == kept.id
    assert said(turns[0]) not in found.judged
    assert found.forget(kept.id) is None
    assert found.store.list() == [] and found.judged == {}


def test_a_question_that_was_never_answered_leaves_its_picture(tmp_path: Path) -> None:
    turns = turns_of([question("stopped"), HumanMessage("what is it?"), AIMessage("a table")])
    correction = record(turns, turns[-1], verdict="up", consent=False)
    check(correction)
    assert correction.messages == (
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]},
    )


def test_changes() -> None:
    answer = "<p>a dog</p> {<10><20><30><40>}"
    _, before = annotate(parse(answer))
    moved = [BoxAnnotation(Box(0.5, 0.5, 0.6, 0.6), "a dog")]
    assert changes(answer, "a dog", before, "") == (None, None)
    assert changes(answer, "a dog", moved, "") == (None, moved)
    assert changes(answer, "a cat", before, "") == ("a cat", before)  # a corrected answer needs its boxes again
    assert changes("yes", "no", [], "") == ("no", None)
    assert changes(answer, "a dog", [], "") == (None, [])


def test_a_box_without_a_name_is_called_what_the_question_asks_for() -> None:
    unnamed, other = BoxAnnotation(BOX), BoxAnnotation(BOX, "a cat")
    assert [mark.label for mark in named([unnamed], "where is the red ball?")] == ["red ball"]
    assert [mark.label for mark in named([unnamed, other], "where is the red ball?")] == [None, "a cat"]
    assert [mark.label for mark in named([unnamed], "hello")] == [None]
    answer = "{<10><20><30><40>}"
    _, before = annotate(parse(answer), "where is the red ball?")
    assert changes(answer, "", before, "where is the red ball?") == (None, None)


def test_preferences_survive_and_nonsense_does_not(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "page.json"
    Preferences(temperature=0.5, seed=3, looks=["closer"], private=True).save(file)
    assert Preferences.load(file) == Preferences(temperature=0.5, seed=3, looks=["closer"], private=True)
    assert file.stat().st_mode & 0o077 == 0 and [entry.name for entry in file.parent.iterdir()] == ["page.json"]
    file.write_text(json.dumps({"temperature": "hot", "looks": ["sideways"], "model": "x", "unknown": 1}))
    assert Preferences.load(file) == Preferences(model="x")
    beyond = {"temperature": 9, "top_p": 0, "max_tokens": 0, "seed": -1, "system": "x" * 5000, "compare": True}
    file.write_text(json.dumps(beyond))  # what the page's controls cannot show
    assert Preferences.load(file) == Preferences(compare=True)
    for nonsense in ("[1]", "{", "", "null", '{"temperature": NaN}', "[" * 100_000):
        file.write_text(nonsense)
        assert Preferences.load(file) == Preferences()
    file.write_bytes(b"\xff\xfe{")
    assert Preferences.load(file) == Preferences()


def test_only_a_server_that_is_ours_is_told_of_a_promotion() -> None:
    theirs = Settings("http://127.0.0.1:9/v1", api_key="their key", admin_key=None)
    assert theirs.follower is None
    with_a_key = Settings("http://127.0.0.1:9/v1", api_key="their key", admin_key="an admin key")
    assert with_a_key.follower == Endpoint("http://127.0.0.1:9/v1", "an admin key")
    assert Settings(server=LocalServer(), admin_key="an admin key").follower is None  # it does not run


def test_a_forgetful_history_is_a_history_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    history = InMemoryHistory()
    name = history.create()
    history.append(name, [question("A secret?"), AIMessage("yes")])
    assert history.conversations("SECRET")[0].title == "A secret?"
    assert turns_of(history.messages(name))[0].pictures == (image_of(TABLE.data_uri),)
    history.delete(name)
    assert history.conversations() == []
    assert list(tmp_path.iterdir()) == []


def test_figures_line() -> None:
    figures = {"model": "a_b", "first": 0.25, "seconds": 1.25, "completion_tokens": 11, "prompt_tokens": 80}
    assert figures_line(figures) == "a\\_b · 0.2 s to the first word · 1.2 s · 11 tokens at 10/s, 80 read"
    assert figures_line({}) == ""
    assert figures_line({"finish_reason": None}) == "its end was not told, it may be unfinished"
    assert figures_line({"finish_reason": None, "remembered": "x"}) == ""


def test_an_answer_is_read_as_its_model_writes() -> None:
    """By the page and by the correction panel alike."""
    answer = '[{"bbox_2d": [100, 200, 300, 400], "label": "the ball"}]'
    for model, boxes in (("Qwen/Qwen3-VL-4B-Instruct", (BOX,)), ("fourfold-mini", ())):
        figures = {"fourfold": {"model": model}}
        [turn] = turns_of([question("where is the ball?"), AIMessage(answer, response_metadata=figures)])
        assert turn.grounded.boxes == boxes
    [turn] = turns_of(
        [question("where is the ball?"), AIMessage(answer, response_metadata={"fourfold": {"model": "qwen3-vl"}})]
    )
    words, before = annotate(turn.grounded)
    assert [(mark.label, mark.box) for mark in before] == [("the ball", BOX)]
    assert [piece["text"] for piece in words if piece["text"].strip()] == ["the ball"]
    moved = [BoxAnnotation(Box(0.5, 0.5, 0.6, 0.6), "the ball", 0)]
    assert changes(turn.rejected, turn.grounded.plain, moved, "") == (None, moved)
    assert changes(turn.rejected, turn.grounded.plain, before, "") == (None, None)
    # Pixels of what the model saw, which is the stored picture resized by its own rule.
    width, height = TABLE.decode().size
    seen = f'{{"bbox_2d": [0, 0, {width}, {height}]}}'
    [turn] = turns_of([question("where?"), AIMessage(seen, response_metadata={"fourfold": {"model": "qwen2.5-vl"}})])
    [box] = turn.grounded.boxes
    assert box.x2 == pytest.approx(1, abs=0.05) and box.y2 == pytest.approx(1, abs=0.05)


def test_what_was_counted_is_drawn_although_the_number_has_no_box() -> None:
    other = Box(0.5, 0.2, 0.7, 0.4)
    counted = [Claim("giraffes", box, 0.57, "detector") for box in (BOX, other)]
    pieces, boxes = annotate(parse("I count 2 giraffes."), "How many giraffes?", counted)
    sure = "detector, 57\u202f% sure"
    assert pieces == [{"text": "I count 2 giraffes."}]
    assert boxes == [BoxAnnotation(box, "giraffes", 0, note=sure) for box in (BOX, other)]
    assert annotate(parse("Yes."), claims=[Claim("dog", None, 0.9, "read-out")])[1] == []
