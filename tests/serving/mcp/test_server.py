"""The tools as an agent calls them, by the package's own client."""

import base64
import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from PIL import Image

pytest.importorskip("mcp")
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.server.mcpserver import MCPServer
from mcp.types import CallToolResult

from fourfold.assistant.images import Attachment
from fourfold.serving.engine.engine import Engine
from fourfold.serving.looking import Looking
from fourfold.serving.mcp import Endpoint, LocalModel, Pictures, create_server
from tests.serving.api.live import Live, live_server
from tests.serving.looking.scripted import CAT, DOG, ScriptedDetector, ScriptedLibrary, finding

NAMES = ["look", "find", "count", "read_text", "decide"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "pictures").mkdir(parents=True)
    Image.effect_noise((80, 60), 90).convert("RGB").save(folder / "photo.png")
    Image.effect_noise((40, 30), 90).convert("RGB").save(folder / "pictures" / "other one.jpg")
    Image.effect_noise((8, 8), 90).convert("RGB").save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "out").symlink_to(tmp_path, target_is_directory=True)
    (folder / "notes.png").write_text("no picture")
    (folder / "cut.jpg").write_bytes((folder / "pictures" / "other one.jpg").read_bytes()[:300])
    with (folder / "huge.png").open("wb") as file:
        file.truncate(2**31)
    os.mkfifo(folder / "pipe.png")
    return folder


@pytest.fixture(scope="module")
def looking(tiny_engine: Engine) -> Looking:
    library = ScriptedLibrary(
        {"dog": finding("dog", (DOG, 0.8), (CAT, 0.4)), "cat": finding("cat", (CAT, 0.9), presence=0.02)}
    )
    return Looking(tiny_engine, library, detector=ScriptedDetector({"bird": [0.9, 0.8, 0.7]}))  # type: ignore[arg-type]


class Shared:
    """An engine that other tests need after this server has ended."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def close(self) -> None:
        pass


class Agent:
    """An agent that connects anew for every call."""

    def __init__(self, server: MCPServer) -> None:
        self.server = server

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        async with Client(self.server) as client:
            return await client.call_tool(name, arguments)


@pytest.fixture
def agent(tiny_engine: Engine, looking: Looking, folder: Path) -> Agent:
    model = LocalModel(lambda: (Shared(tiny_engine), looking))  # type: ignore[arg-type, return-value]
    return Agent(create_server(model, Pictures.below([folder])))


def words(result: CallToolResult) -> str:
    return "\n".join(part.text for part in result.content if part.type == "text")


async def test_every_tool_says_what_it_takes_gives_and_does(agent: Agent) -> None:
    async with Client(agent.server) as client:
        tools = (await client.list_tools()).tools
    assert [tool.name for tool in tools] == NAMES
    for tool in tools:
        assert tool.description and tool.output_schema and tool.input_schema
        assert tool.annotations and tool.annotations.read_only_hint and tool.annotations.open_world_hint is False
        assert "context" not in tool.input_schema["properties"]


async def test_a_thing_is_found_with_its_box_and_drawn(agent: Agent) -> None:
    said = await agent.call_tool("find", {"thing": "dog", "image": "photo.png", "draw_boxes": True})
    assert said.structured_content == {
        "thing": "dog",
        "found": [{"phrase": "dog", "box": list(DOG.as_tuple()), "confidence": 0.8, "source": "read-out"}],
        "answer": "dog at [0.10, 0.20, 0.50, 0.60] (read-out, 80% sure)",
        "size": [80, 60],
        "model": "tiny+eyes",
    }
    text, picture = said.content
    assert text.type == "text" and text.text == said.structured_content["answer"]
    assert picture.type == "image" and picture.mime_type == "image/jpeg"
    with Image.open(io.BytesIO(base64.b64decode(picture.data))) as drawn:
        assert drawn.size == (80, 60)


async def test_every_one_of_a_kind_is_found(agent: Agent) -> None:
    said = await agent.call_tool("find", {"thing": "dogs", "image": "photo.png", "every": True})
    assert [one["box"] for one in said.structured_content["found"]] == [list(DOG.as_tuple()), list(CAT.as_tuple())]


@pytest.mark.parametrize("every", [True, False])
async def test_what_is_not_there_is_not_found_and_nothing_is_drawn(agent: Agent, every: bool) -> None:
    asked = {"thing": "cat", "image": "photo.png", "every": every, "draw_boxes": True}
    said = await agent.call_tool("find", asked)
    assert said.structured_content["found"] == []
    assert said.structured_content["answer"] == "I see no cat."
    assert "Nothing to draw" in words(said)


async def test_things_are_counted(agent: Agent) -> None:
    said = await agent.call_tool("count", {"thing": "bird", "image": "photo.png"})
    assert said.structured_content["number"] == 3
    assert len(said.structured_content["claims"]) == 3
    said = await agent.call_tool("count", {"thing": "cats", "image": "photo.png"})
    assert said.structured_content["number"] in (0, None)  # the tiny model counts them


async def test_a_question_is_answered_with_claims_and_progress(agent: Agent) -> None:
    told: list[str] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    asked = {"question": "is there a dog?", "image": "pictures/other one.jpg"}
    async with Client(agent.server) as client:
        said = await client.call_tool("look", asked, progress_callback=progress)
        assert told == ["loading the model", "looking at the picture"]
        await client.call_tool("look", asked, progress_callback=progress)
        assert told[2:] == ["looking at the picture"]  # it is loaded once
    assert said.structured_content["answer"].startswith("Yes")
    [claim] = said.structured_content["claims"]
    assert claim["source"] == "read-out + model"


async def test_closed_questions_have_probabilities(agent: Agent) -> None:
    questions = ["is there a dog?", {"question": "which is it?", "options": ["red", "green", "blue"]}]
    said = await agent.call_tool("decide", {"questions": questions, "image": "photo.png"})
    first, second = said.structured_content["decisions"]
    assert list(first["probabilities"]) == ["yes", "no"] and first["source"] == "read-out + model"
    assert list(second["probabilities"]) == ["red", "green", "blue"] and second["source"] == "model"
    for one in (first, second):
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=2e-3)
        assert one["answer"] == max(one["probabilities"], key=one["probabilities"].__getitem__)


async def test_several_pictures_and_a_data_uri_are_looked_at(agent: Agent, folder: Path) -> None:
    inline = Attachment.from_path(folder / "photo.png").data_uri
    for image in ([inline, "photo.png"], inline, folder.as_uri() + "/photo.png", str(folder / "photo.png")):
        said = await agent.call_tool("look", {"question": "what is it?", "image": image, "max_tokens": 5})
        assert not said.is_error, words(said)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("../secret.png", "is outside of"),
        ("../absent.png", "is outside of"),  # whether it is there is not told
        ("pictures/../../secret.png", "is outside of"),
        ("link.png", "is outside of"),
        ("out/secret.png", "is outside of"),
        ("/etc/hostname", "is outside of"),
        ("file:///etc/hostname", "is outside of"),
        ("file://elsewhere/photo.png", "is on another machine"),
        ("~/photo.png", "is outside of"),
        ("https://example.org/a.png", "nothing is fetched"),
        ("ftp:x", "nothing is fetched"),
        ("data:text/plain;base64,aGVsbG8=", "is a data URI of text/plain"),
        ("data:image/png;base64,@@@@", "is not valid base64"),
        ("absent.png", "does not exist"),
        ("notes.png", "is not an image"),
        ("cut.jpg", "is damaged or cut short"),
        ("huge.png", "the limit is"),
        ("pipe.png", "is not a regular file"),
        ("pictures", "is a directory"),
        ("", "has no name"),
        ("a\0b.png", "has no name"),
    ],
)
async def test_what_may_not_or_cannot_be_looked_at_is_an_error_in_a_sentence(
    agent: Agent, image: str, message: str
) -> None:
    said = await agent.call_tool("find", {"thing": "dog", "image": image})
    assert said.is_error and said.structured_content is None
    assert message in words(said)
    assert "\n" not in words(said) and "Traceback" not in words(said)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("find", {"thing": "", "image": "photo.png"}),
        ("count", {"thing": "  ", "image": "photo.png"}),
        ("look", {"question": "what?", "image": "photo.png", "max_tokens": 10**9}),
        ("look", {"question": "what?", "image": []}),
        ("look", {"question": "what?", "image": ["photo.png"] * 9}),
        ("decide", {"questions": [], "image": "photo.png"}),
        ("decide", {"questions": [{"question": "which?", "options": ["one"]}], "image": "photo.png"}),
        ("decide", {"questions": [{"question": "which?", "options": ["a", "a"]}], "image": "photo.png"}),
        ("count", {"image": "photo.png"}),
        ("look", {"question": "seven " * 300, "image": "photo.png"}),
    ],
)
async def test_arguments_that_are_none_are_errors_that_the_agent_reads(
    agent: Agent, tool: str, arguments: dict[str, Any]
) -> None:
    said = await agent.call_tool(tool, arguments)
    assert said.is_error and words(said)


# Of an endpoint


@pytest.fixture(scope="module")
def served(tiny_engine: Engine, looking: Looking) -> Iterator[Live]:
    with live_server(tiny_engine, looking=looking) as server:
        yield server


async def test_an_endpoint_answers_the_same(served: Live, agent: Agent, folder: Path) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("look", {"question": "where is the dog?", "image": "photo.png"}),
        ("find", {"thing": "dogs", "image": "photo.png", "every": True}),
        ("count", {"thing": "bird", "image": "photo.png"}),
        ("decide", {"questions": [{"question": "is there a dog?"}], "image": "photo.png"}),
    ]
    async with Client(create_server(Endpoint(f"{served.url}/v1"), Pictures.below([folder]))) as other:
        for tool, arguments in calls:
            ours, theirs = await agent.call_tool(tool, arguments), await other.call_tool(tool, arguments)
            assert not theirs.is_error, words(theirs)
            if tool == "decide":
                [one], [two] = (said.structured_content["decisions"] for said in (ours, theirs))
                assert one["probabilities"] == pytest.approx(two["probabilities"], abs=2e-3)
                assert one["answer"] == two["answer"]
            else:
                assert ours.structured_content == theirs.structured_content


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://127.0.0.1:9/v1", "cannot be reached; start a server with fourfold serve"),
        ("{served}/nowhere", "refused the question"),
    ],
)
async def test_an_endpoint_that_does_not_answer_is_an_error_in_a_sentence(
    served: Live, folder: Path, endpoint: str, message: str
) -> None:
    server = create_server(Endpoint(endpoint.replace("{served}", served.url)), Pictures.below([folder]))
    async with Client(server) as agent:
        said = await agent.call_tool("look", {"question": "what?", "image": "photo.png"})
    assert said.is_error and message in words(said)


# The command


async def test_an_agent_starts_the_command_and_speaks_with_it(tiny_checkpoint: Path, folder: Path) -> None:
    """Over standard input and output, where a word of anybody else would break the protocol."""
    command = ["-m", "fourfold.cli", "mcp", "--model", str(tiny_checkpoint), "--root", str(folder)]
    environment = {**os.environ, "FOURFOLD_CACHE": str(folder), "XDG_DATA_HOME": str(folder), "FOURFOLD_OFFLINE": "1"}
    started = StdioServerParameters(command=sys.executable, args=command, env=environment)
    async with Client(stdio_client(started)) as agent:
        assert [tool.name for tool in (await agent.list_tools()).tools] == NAMES
        refused = await agent.call_tool("find", {"thing": "dog", "image": "../secret.png"})
        assert refused.is_error and "is outside of" in words(refused)
        said = await agent.call_tool("look", {"question": "what is it?", "image": "photo.png", "max_tokens": 5})
        assert not said.is_error, words(said)
        assert said.structured_content["model"] == "checkpoint"


async def test_a_call_that_the_agent_gives_up_ends(folder: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    class Slow:
        name = "slow"

        def answer(self, images: Any, question: str, max_tokens: int, cancel: threading.Event, tell: Any) -> Any:
            begun.set()
            assert cancel.wait(20)
            ended.set()
            return "", ()

        def close(self) -> None:
            pass

    async with Client(create_server(Slow(), Pictures.below([folder]))) as agent:  # type: ignore[arg-type]
        with anyio.move_on_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(agent.call_tool, "look", {"question": "what?", "image": "photo.png"})
                await anyio.to_thread.run_sync(begun.wait, 10)
                group.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(ended.wait, 10)
