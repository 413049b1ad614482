"""The tools as a model sees them, and an agent that calls them."""

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from PIL import Image
from pydantic import PrivateAttr

from fourfold.assistant.tools.agent import image_agent
from fourfold.assistant.tools.results import Count, Detections, Zoomed
from fourfold.assistant.tools.toolbox import Pictures, image_tools
from fourfold.prompts.errors import UserError
from tests.assistant.tools.conftest import See

LEFT = (0.0, 0.25, 0.5, 0.75)


def by_name(tools: Sequence[BaseTool]) -> dict[str, BaseTool]:
    return {tool.name: tool for tool in tools}


def call(tool: BaseTool, **arguments: Any) -> ToolMessage:
    return tool.invoke({"name": tool.name, "args": arguments, "id": "1", "type": "tool_call"})


def test_a_tool_gives_the_model_json_and_a_program_an_object(sees: See, picture: Image.Image) -> None:
    sees(("dog", LEFT, 0.9))
    tools = by_name(image_tools([picture]))
    found = call(tools["detect"], nouns=["puppy", "unicorn"])
    said = json.loads(str(found.content))
    assert said["found"][0]["box"] == list(LEFT)
    assert said["unknown"] == ["unicorn"]
    assert isinstance(found.artifact, Detections)
    counted = call(tools["count"], noun="dogs")
    assert json.loads(str(counted.content))["number"] == 1
    assert isinstance(counted.artifact, Count)


def test_zooming_makes_a_picture_that_the_other_tools_take(sees: See, picture: Image.Image) -> None:
    sees(("dog", LEFT, 0.9))
    pictures = Pictures([picture])
    tools = by_name(image_tools(pictures))
    zoomed = call(tools["zoom"], box=LEFT).artifact
    assert (zoomed.image, zoomed.width, zoomed.height) == (2, 40, 30)
    assert pictures[2].size == (40, 30)
    assert call(tools["count"], noun="dog", image=2).artifact.number == 1


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("count", {"noun": "dog", "image": 3}, "there is no picture 3; there are 1"),
        ("count", {"noun": "x" * 10_000}, "count cannot take that: noun"),
        ("count", {}, "count cannot take that: noun"),
        ("zoom", {"box": [0.5, 0.5, 0.5, 0.9]}, "has no area"),
        ("zoom", {"box": [0.9, 0.5, 0.5, 0.9]}, "x1 <= x2"),
        ("zoom", {"box": [0, 0, 2, 1]}, "zoom cannot take that: box"),
        ("segment", {"box": [0.5, 0.5, 0.5, 0.9]}, "has no area"),
        ("detect", {"nouns": ["dog"] * 21}, "detect cannot take that: nouns"),
    ],
)
def test_what_a_tool_cannot_do_is_a_sentence_for_the_model(
    picture: Image.Image, name: str, arguments: dict[str, Any], says: str
) -> None:
    message = call(by_name(image_tools([picture]))[name], **arguments)
    assert says in str(message.content)
    assert "\n" not in str(message.content)


def test_openai_endpoints_are_told_types_and_ranges(picture: Image.Image) -> None:
    told = {tool.name: convert_to_openai_tool(tool)["function"] for tool in image_tools([picture])}
    assert set(told) == {"detect", "count", "segment", "read_text", "zoom"}
    assert told["count"]["parameters"]["required"] == ["noun"]
    assert told["zoom"]["parameters"]["properties"]["box"]["maxItems"] == 4
    assert all(function["description"] for function in told.values())


def test_zooming_ends_somewhere() -> None:
    tools = by_name(image_tools([Image.new("RGB", (4, 4))]))
    said = [str(call(tools["zoom"], box=[0, 0, 1, 1]).content) for _ in range(32)]
    assert "no room for more" in said[-1]
    assert "no room" not in said[-2]


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(UserError):
        image_tools([b"no picture"])


class Scripted(BaseChatModel):
    """A model that says what it is told to, and keeps what it was shown."""

    script: list[AIMessage]
    _shown: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **options: Any) -> "Scripted":
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **options: Any) -> ChatResult:
        self._shown.append(messages)
        return ChatResult(generations=[ChatGeneration(message=self.script[len(self._shown) - 1])])


def calls(*named: tuple[str, dict[str, Any]]) -> AIMessage:
    return AIMessage(
        "",
        tool_calls=[{"name": name, "args": args, "id": f"{name}{place}"} for place, (name, args) in enumerate(named)],
    )


def test_an_agent_counts_zooms_sees_what_it_zoomed_to_and_answers(sees: See, picture: Image.Image) -> None:
    sees(("dog", LEFT, 0.9))
    model = Scripted(
        script=[
            calls(("count", {"noun": "dogs"}), ("zoom", {"box": LEFT}), ("count", {"noun": "unicorn"})),
            calls(("detect", {"nouns": ["dog"], "image": 2})),
            AIMessage("One dog, and I cannot count unicorns."),
        ]
    )
    agent = image_agent(model, [picture])
    said = agent.invoke({"messages": [HumanMessage("How many dogs and unicorns are there?")]})["messages"]
    assert said[-1].text == "One dog, and I cannot count unicorns."
    results = {message.name: message for message in said if isinstance(message, ToolMessage)}
    assert json.loads(str(results["detect"].content))["found"][0]["label"] == "dog"
    assert isinstance(results["zoom"].artifact, Zoomed)
    # What was cut out is shown after all results of that step, as the step's only extra message.
    second = model._shown[1]
    assert [type(message) for message in second[-4:]] == [ToolMessage, ToolMessage, ToolMessage, HumanMessage]
    label, shown = second[-1].content
    assert label == {"type": "text", "text": "Picture 2:"}
    sent = Image.open(io.BytesIO(base64.b64decode(shown["image_url"]["url"].partition(",")[2])))
    assert sent.size == (40, 30)
    assert not isinstance(model._shown[2][-1], HumanMessage)
