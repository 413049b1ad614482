"""The history under the conditions that lose messages elsewhere: crashes, full disks, writers beside each other."""

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from PIL import Image

from fourfold.assistant.chat.export import export_conversation
from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.chat.message_tree import MIGRATIONS
from fourfold.assistant.images import Attachment, image_url
from fourfold.prompts.errors import UserError
from tests.assistant.threads import run_in_threads

ROOT = Path(__file__).parents[3]


def picture(seed=0, side=40):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def question(text, seed=0, side=40):
    return HumanMessage(
        [{"type": "image_url", "image_url": {"url": image_url(picture(seed, side))}}, {"type": "text", "text": text}]
    )


@pytest.fixture
def history(tmp_path):
    return ChatHistory(tmp_path / "chats" / "history.sqlite")


def test_a_conversation_survives_a_restart(history):
    chat = history.create()
    said = [
        SystemMessage("be brief"),
        question("what is this?"),
        AIMessage("<p>noise</p> {<1><2><3><4>}", response_metadata={"model_name": "m"}),
    ]
    history.append(chat, said[:1])
    history.append(chat, said[1:])
    again = ChatHistory(history.path)
    assert again.messages(chat) == said
    [info] = again.conversations()
    assert (info.id, info.title, info.messages) == (chat, "what is this?", 3)


def test_an_image_is_stored_once(history):
    chats = [history.create(), history.create()]
    for chat in chats:
        history.append(chat, [question("a"), AIMessage("b"), question("c"), question("d", seed=1)])
    with sqlite3.connect(history.path) as connection:
        assert connection.execute("SELECT count(*) FROM images").fetchone() == (2,)
        assert "base64" not in connection.execute("SELECT group_concat(body) FROM messages").fetchone()[0]
    assert history.messages(chats[0])[2] == question("c")


def test_the_other_shape_of_image_part_comes_back_as_image_url(history):
    uri = image_url(picture())
    chat = history.create()
    part = {"type": "image", "base64": uri.partition(",")[2], "mime_type": "image/png"}
    remote = {"type": "image_url", "image_url": "https://example.org/a.png"}
    history.append(chat, [HumanMessage([part, remote, "and text"])])
    [message] = history.messages(chat)
    assert message.content == [{"type": "image_url", "image_url": {"url": uri}}, remote, "and text"]


def test_titles_and_search(history):
    first, second = history.create(), history.create("Straße 100%")
    history.append(first, [question("Where is the DOG?"), AIMessage("left of the café")])
    history.append(second, [HumanMessage("nothing here")])
    assert [c.title for c in history.conversations()] == ["Straße 100%", "Where is the DOG?"]

    def found(text):
        return [c.id for c in history.conversations(text)]

    assert found("dog") == found("CAFÉ") == [first]
    assert found("STRASSE") == found("100%") == [second]
    assert found("_") == found("base64") == found("image_url") == []
    history.rename(first, " Dogs ")
    assert history.info(first).title == "Dogs"
    with pytest.raises(UserError, match="not empty"):
        history.rename(first, "  ")


def test_a_missing_conversation_is_named(history):
    for call in (
        lambda: history.messages("x"),
        lambda: history.append("x", [HumanMessage("a")]),
        lambda: history.rename("x", "y"),
        lambda: history.delete("x"),
        lambda: history.info("x"),
    ):
        with pytest.raises(UserError, match="no conversation 'x'"):
            call()


def every_byte(path):
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_delete_leaves_no_trace_in_any_file(history):
    doomed, kept = history.create(), history.create()
    history.append(kept, [question("shared"), AIMessage("kept answer")])
    history.append(doomed, [question("shared"), question("SECRETWORD one", seed=7, side=200)])
    history.append(doomed, [AIMessage("SECRETWORD two " * 5000)])
    secret = Attachment.from_image(picture(7, 200)).content
    chunks = [secret[i : i + 64] for i in range(100, len(secret) - 64, 5000)]
    assert all(chunk in every_byte(history.path) for chunk in chunks)
    size = history.path.stat().st_size
    history.delete(doomed)
    left = every_byte(history.path)
    assert b"SECRETWORD" not in left
    assert b"secretword" not in left
    assert not any(chunk in left for chunk in chunks)
    assert history.path.stat().st_size < size - len(secret)
    assert history.messages(kept) == [question("shared"), AIMessage("kept answer")]
    history.delete(kept)
    with sqlite3.connect(history.path) as connection:
        for table in ("conversations", "messages", "images", "uses"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_delete_while_another_process_reads(history):
    chat = history.create()
    history.append(chat, [HumanMessage("SECRETWORD")])
    reader = sqlite3.connect(history.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM messages").fetchall()
    history.delete(chat)
    assert history.conversations() == []
    reader.execute("COMMIT")
    reader.close()
    assert history.conversations() == []  # the last connection to close empties the log
    assert b"SECRETWORD" not in every_byte(history.path)


def test_a_bad_image_stores_nothing(history):
    chat = history.create()
    for url in ("data:image/png;base64,!!", "data:text/plain,hello", "data:image/png;base64,aGVsbG8="):
        bad = HumanMessage([{"type": "image_url", "image_url": {"url": url}}])
        with pytest.raises(UserError, match="image"):
            history.append(chat, [HumanMessage("before"), bad])
    assert history.messages(chat) == []


def test_threads_write_beside_each_other(history):
    chat = history.create()

    def write(number):
        for turn in range(10):
            history.append(chat, [HumanMessage(f"{number} {turn}"), AIMessage(f"{number} {turn}")])

    run_in_threads(write)
    said = [message.content for message in history.messages(chat)]
    assert said[::2] == said[1::2]  # nobody came between a question and its answer
    assert sorted(said[::2]) == sorted(f"{number} {turn}" for number in range(6) for turn in range(10))


WRITER = """
import sys
from langchain_core.messages import AIMessage, HumanMessage
from fourfold.assistant.images import Attachment, image_url
from fourfold.assistant.chat.history import ChatHistory
from tests.assistant.chat.test_history import question
history = ChatHistory(sys.argv[1])
side, turns = int(sys.argv[2]), int(sys.argv[3])
chat = history.create(sys.argv[4])
print("ready", chat, flush=True)
for turn in range(turns):
    history.append(chat, [question(f"turn {turn}", seed=turn, side=side), AIMessage(f"answer {turn}")])
    print(turn, flush=True)
"""


def writer(path, side, turns, name, **options):
    command = [sys.executable, "-c", WRITER, str(path), str(side), str(turns), name]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def check_whole(path, chat, acknowledged):
    """Every acknowledged turn is there, nothing is there by halves, and the file is sound."""
    history = ChatHistory(path)
    messages = history.messages(chat)
    assert len(messages) in (2 * acknowledged, 2 * acknowledged + 2)
    for number, message in enumerate(messages):
        if number % 2:
            assert message.content == f"answer {number // 2}"
        else:
            assert message.content[0]["image_url"]["url"].startswith("data:image/png;base64,")
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    return len(messages) // 2


def test_processes_open_and_write_beside_each_other(tmp_path):
    path = tmp_path / "history.sqlite"
    writers = [writer(path, 40, 8, f"w{number}") for number in range(3)]
    for process in writers:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    history = ChatHistory(path)
    assert sorted((c.title, c.messages) for c in history.conversations()) == [("w0", 16), ("w1", 16), ("w2", 16)]


@pytest.mark.parametrize("turns_before_the_kill", [0, 2, 5])
def test_kill_9_in_the_middle_of_a_write(tmp_path, turns_before_the_kill):
    path = tmp_path / "history.sqlite"
    process = writer(path, 1000, 1000, "doomed")  # 3 MB a turn, so that nearly all its time goes into writing
    chat = process.stdout.readline().split()[1]
    acknowledged = 0
    for _ in range(turns_before_the_kill):
        process.stdout.readline()
        acknowledged += 1
    log = Path(f"{path}-wal")
    size = log.stat().st_size if log.exists() else 0
    while process.poll() is None and (not log.exists() or log.stat().st_size == size):
        pass  # wait until the next turn is being written
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().split()
    process.wait()
    process.stderr.close()
    assert process.returncode == -signal.SIGKILL
    turns = check_whole(path, chat, acknowledged + len(rest))
    history = ChatHistory(path)
    history.append(chat, [question(f"turn {turns}", seed=turns), AIMessage(f"answer {turns}")])
    check_whole(path, chat, turns + 1)


def test_a_full_disk_loses_nothing_that_was_stored(tmp_path):
    """The kernel refuses to let the file grow beyond a limit, as a full disk would."""
    import resource

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    path = tmp_path / "history.sqlite"
    process = writer(path, 400, 100, "big", preexec_fn=limit)
    out, errors = process.communicate(timeout=120)
    chat, acknowledged = out.split()[1], len(out.split()) - 2
    assert process.returncode == 1
    assert "could not be written" in errors
    assert 1 <= acknowledged < 20
    assert check_whole(path, chat, acknowledged) == acknowledged
    ChatHistory(path).append(chat, [question("room again", seed=acknowledged), AIMessage(f"answer {acknowledged}")])
    check_whole(path, chat, acknowledged + 1)


def test_a_file_of_the_first_schema_is_brought_up_to_date(tmp_path, history):
    path = tmp_path / "old.sqlite"
    chat = history.create("old")
    history.append(chat, [question("a"), AIMessage("b")])
    with sqlite3.connect(path) as old, sqlite3.connect(history.path) as new:
        old.executescript(MIGRATIONS[0])
        for table in ("conversations", "images", "messages"):
            columns = ", ".join(row[1] for row in old.execute(f"PRAGMA table_info({table})"))
            for row in new.execute(f"SELECT {columns} FROM {table}"):
                old.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        old.execute("PRAGMA user_version = 1")
    upgraded = ChatHistory(path)
    assert upgraded.messages(chat) == [question("a"), AIMessage("b")]
    upgraded.append(chat, [AIMessage("c")], keep=1)
    assert upgraded.messages(chat) == [question("a"), AIMessage("c")]
    assert [v.parent for v in upgraded.versions(chat)] == [None, 0, 0]
    upgraded.delete(chat)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM images").fetchone() == (0,)
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


def test_files_that_are_no_history_are_left_alone(tmp_path):
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="newer version"):
        ChatHistory(newer)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    with pytest.raises(UserError, match="something else"):
        ChatHistory(other)
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    with pytest.raises(UserError, match="not a history"):
        ChatHistory(text)
    assert text.read_text() == "not a database " * 100
    with pytest.raises(UserError, match="cannot be opened"):
        ChatHistory(tmp_path)


def test_only_the_owner_may_read(history):
    history.append(history.create(), [HumanMessage("a")])
    holder = sqlite3.connect(history.path)
    holder.execute("SELECT * FROM messages").fetchall()
    history.create()
    for file in history.path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file
    holder.close()


def test_export_as_json_and_markdown_with_pictures(history, tmp_path):
    chat = history.create("A # title")
    history.append(
        chat, [question("find *it*"), AIMessage("It is <p>the dog</p> {<10><20><30><40>}<delim>{<1><2><3><4>}.")]
    )
    out = export_conversation(history, chat, tmp_path / "out")
    body = json.loads((out / "conversation.json").read_text())
    assert (body["title"], [m["role"] for m in body["messages"]]) == ("A # title", ["user", "assistant"])
    image_part, text_part = body["messages"][0]["content"]
    assert text_part == {"type": "text", "text": "find *it*"}
    assert (out / image_part["image_url"]["url"]).read_bytes() == Attachment.from_image(picture()).content
    markdown = (out / "conversation.md").read_text()
    assert f"![]({image_part['image_url']['url']})" in markdown
    assert r"find \*it\*" in markdown
    assert "It is the dog (10, 20, 30, 40) (1, 2, 3, 4)." in markdown
    assert markdown.startswith(r"# A \# title")


def test_no_words_of_an_export_are_markdown(history, tmp_path):
    chat = history.create()
    history.append(chat, [HumanMessage("What?"), AIMessage("Two:\n- a\n 2. b\n~~~\n3.5 m &amp;lt; 4 m\n===")])
    markdown = (export_conversation(history, chat, tmp_path / "out") / "conversation.md").read_text()
    for line in (r"\- a", r" 2\. b", r"\~\~\~", r"3\.5 m \&lt; 4 m", r"\==="):
        assert f"\n{line}\n" in markdown, line


def test_what_was_read_may_be_changed_and_changes_of_others_are_seen(history):
    chat = history.create()
    history.append(chat, [question("a"), AIMessage("b", response_metadata={"x": {"y": 1}})])
    read = history.messages(chat)
    read[1].response_metadata["x"]["y"] = 2
    read.pop()
    assert history.messages(chat)[1].response_metadata == {"x": {"y": 1}}
    ChatHistory(history.path).append(chat, [HumanMessage("c")])
    assert [message.text for message in history.messages(chat)] == ["a", "b", "c"]
    ChatHistory(history.path).delete(chat)
    with pytest.raises(UserError, match="no conversation"):
        history.messages(chat)
