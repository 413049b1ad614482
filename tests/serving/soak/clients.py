"""Four kinds of clients that ask at once, each on a thread of its own, with pauses as people make them."""

import base64
import io
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
from langchain_core.messages import AIMessage, HumanMessage
from PIL import Image

from fourfold.assistant.chat.history import ChatHistory
from fourfold.assistant.refine.registry import SERVED_NAME
from fourfold.assistant.training.data.scenes import make_scene
from tests.serving.soak.server import CLIENT_KEY

PAUSE = 3.0
"""Seconds between an answer and a client's next question, on average."""
QUESTIONS = (
    "[vqa] what is in the picture?",
    "[caption] describe the picture in a sentence.",
    "[refer] give me the location of the red circle",
    "[grounding] describe this image in detail",
    "how many shapes are there?",
    "is there a dog?",
    "where is the ball?",
)
GOING_ON = (
    "And what else?",
    "Are you sure?",
    "What colour is it?",
    "Where is it?",
    "Tell me more about it.",
    "thanks!",
)
KINDS = ("JPEG", "PNG", "WEBP", "AVIF")


@dataclass
class Told:
    """What one request came to: `status` of HTTP, "left" where the client hung up, "broken" where the server did."""

    client: str
    status: int | str
    seconds: float
    first: float | None = None  # seconds from sending to the first words
    characters: int = 0
    note: str = ""


@dataclass
class Surroundings:
    """What the clients share.

    Attributes:
        model: what the server calls its model.
        refined: whether an adapter is served under `SERVED_NAME`.
        known: question and picture of what was corrected, and the answer that the memory has to give.
        shown: names that were shown once.
    """

    url: str
    model: str
    history: Path
    stop: threading.Event
    record: Callable[[Told], None]
    refined: bool = False
    known: list[tuple[str, str, str]] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)


class Pictures:
    """Pictures that no cache knows: rendered scenes, and crops of photos where `FOURFOLD_DATA` has some."""

    def __init__(self, seed: str) -> None:
        self._dice = random.Random(f"pictures {seed}")
        root = Path(os.environ.get("FOURFOLD_DATA", Path(__file__).parents[4] / "shared" / "data"))
        self._photos = sorted((root / "coco_sample").glob("*.jpg"))

    def image(self) -> Image.Image:
        dice = self._dice
        if self._photos and dice.random() < 0.5:
            with Image.open(dice.choice(self._photos)) as photo:
                left, top = (dice.randrange(1, side // 4) for side in photo.size)
                right, bottom = (side - dice.randrange(side // 4) for side in photo.size)
                return photo.convert("RGB").crop((left, top, right, bottom))
        return make_scene(f"soak {dice.random()}").render()

    def uri(self) -> str:
        """As a data URI, of one of the file types that are taken; AVIF goes through a decoder of its own."""
        kind = self._dice.choices(KINDS, (6, 3, 2, 1))[0]
        buffer = io.BytesIO()
        self.image().save(buffer, kind)
        return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


class Client(threading.Thread):
    """Asks, reports, pauses, until it is told to stop."""

    def __init__(self, kind: str, surroundings: Surroundings, seed: int, pause: float = PAUSE) -> None:
        super().__init__(name=kind, daemon=True)
        self.around = surroundings
        self.dice = random.Random(f"{kind} {seed}")
        self.pictures = Pictures(f"{kind} {seed}")
        self.pause = pause
        self.api = openai.OpenAI(base_url=surroundings.url, api_key=CLIENT_KEY, max_retries=0, timeout=300)

    def run(self) -> None:
        while not self.around.stop.is_set():
            began = time.monotonic()
            try:
                self.turn()
            except openai.APIStatusError as error:
                gone = error.status_code == 404 and SERVED_NAME in str(error.request.content)
                note = "its adapter was rolled back" if gone else str(error)[:300]
                self.tell(error.status_code, began, note=note)
            except Exception as error:  # of the connection, within a stream, or ours: a client that ends is not seen
                self.tell("broken", began, note=f"{type(error).__name__}: {error}"[:300])
            self.around.stop.wait(self.dice.expovariate(1 / self.pause))

    def turn(self) -> None:
        """One request or a few, each reported; what is raised is reported as well."""
        raise NotImplementedError

    def tell(self, status: int | str, began: float, **more: Any) -> None:
        self.around.record(Told(self.name, status, round(time.monotonic() - began, 4), **more))

    def called(self) -> str:
        """A name of the model: by itself, with eyes, or the adapter."""
        names = [self.around.model, self.around.model + "+eyes"]
        return self.dice.choice([*names, SERVED_NAME] if self.around.refined else names)

    def stream(self, messages: list[Any], model: str, max_tokens: int) -> tuple[str, float | None, int]:
        """The whole answer, seconds to its first words, and tokens of the prompt.

        Raises:
            openai.APIError: it was refused or broke off.
        """
        began, first, text, prompt, ended = time.monotonic(), None, "", 0, False
        stream = self.api.chat.completions.create(
            model=model, messages=messages, max_tokens=max_tokens, stream=True, stream_options={"include_usage": True}
        )
        for chunk in stream:
            if chunk.usage:
                prompt = chunk.usage.prompt_tokens
            for choice in chunk.choices:
                if choice.delta.content:
                    first = first or round(time.monotonic() - began, 4)
                    text += choice.delta.content
                ended = ended or choice.finish_reason is not None
        if not (ended and prompt):
            raise openai.APIError("the stream ended without a reason or usage", stream.response.request, body=None)
        return text, first, prompt


class NewPictures(Client):
    """A question about a picture that nobody has seen; some of them were corrected before and have to be remembered."""

    def turn(self) -> None:
        began = time.monotonic()
        if self.around.known and self.dice.random() < 0.15:
            known = self.dice.choice(self.around.known)
            question, uri, right = known
            text, first, _ = self.stream([asked(question, uri)], self.around.model, 40)
            status = 200 if text == right or known not in self.around.known else "wrong"  # forgotten meanwhile
            self.tell(status, began, first=first, characters=len(text), note="from memory")
            return
        question = self.dice.choice(QUESTIONS)
        if self.around.shown and self.dice.random() < 0.3:
            question = f"where is {self.dice.choice(self.around.shown)}?"
        text, first, _ = self.stream([asked(question, self.pictures.uri())], self.called(), 32)
        self.tell(200, began, first=first, characters=len(text))


class LongConversations(Client):
    """Follow-ups, kept in a history as the page keeps them, until the model's context is three quarters full."""

    def __init__(self, kind: str, surroundings: Surroundings, seed: int, pause: float = PAUSE) -> None:
        super().__init__(kind, surroundings, seed, pause)
        self._history = ChatHistory(surroundings.history / "history.sqlite")
        self._messages: list[Any] = []
        self._number = ""

    def turn(self) -> None:
        began = time.monotonic()
        if not self._messages:
            self._number = self._history.create()
            question = asked(self.dice.choice(QUESTIONS), self.pictures.uri())
        elif self.dice.random() < 0.05:
            question = asked("[vqa] and in this picture?", self.pictures.uri())
        else:
            question = {"role": "user", "content": self.dice.choice(GOING_ON)}
        self._history.append(self._number, [HumanMessage(question["content"])])
        text, first, prompt = self.stream([*self._messages, question], self.around.model, 24)
        self._history.append(self._number, [AIMessage(text)])
        self._messages += [question, {"role": "assistant", "content": text}]
        self.tell(200, began, first=first, characters=len(text), note=f"{prompt} tokens")
        if prompt > 3000 or len(self._messages) > 120:
            self._messages = []
            for old in self._history.conversations()[10:]:
                self._history.delete(old.id)


class Decisions(Client):
    """Yes or no, one of several and how much, about a new picture; probabilities have to add up."""

    def turn(self) -> None:
        began = time.monotonic()
        thing = self.dice.choice(("a dog", "a red circle", "a person", "a car", "a blue square"))
        colours = [{"value": value} for value in ("red", "blue", "green", "none of these")]
        levels = [{"label": str(number)} for number in range(5)]
        questions: list[Any] = [
            {"type": "predicate", "instructions": f"is there {thing}?"},
            {"type": "choice", "instructions": "what is the colour of the biggest thing?", "choices": colours},
            {"type": "score", "instructions": "how many things are there?", "levels": levels},
        ]
        content: list[Any] = [{"type": "input_image", "image_url": self.pictures.uri()}]
        answer = self.api.decisions.create(
            model=self.called(), input=[{"role": "user", "content": content}], questions=questions
        )
        sums = [sum(one.probability for one in a.probabilities) for a in answer.answers if hasattr(a, "probabilities")]
        right = len(answer.answers) == 3 and len(sums) == 2 and all(abs(total - 1) < 1e-6 for total in sums)
        self.tell(200 if right else "wrong", began)


class HangingUp(Client):
    """Leaves: in the middle of its own request, before the first word, after some, or between head and body."""

    def turn(self) -> None:
        began = time.monotonic()
        question = asked("Tell me a long and detailed story about what you see.", self.pictures.uri())
        body: dict[str, Any] = {"model": self.called(), "messages": [question], "max_tokens": 200, "stream": True}
        how = self.dice.randrange(3)
        if how < 2:
            self._leave_the_socket(json.dumps(body).encode(), half=how == 0)
            self.tell("left", began, note="in its request" if how == 0 else "before a word")
            return
        first, pieces = None, self.dice.randrange(1, 12)
        stream = self.api.chat.completions.create(**body)
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                first = first or round(time.monotonic() - began, 4)
                pieces -= 1
            if pieces <= 0:
                break
        stream.close()
        self.tell("left", began, first=first, note="after some words")

    def _leave_the_socket(self, body: bytes, half: bool) -> None:
        at = urlsplit(self.around.url)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {at.netloc}\r\nauthorization: Bearer {CLIENT_KEY}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((at.hostname, at.port), timeout=60) as connection:
            connection.sendall(head.encode() + (body[: len(body) // 2] if half else body))
            self.around.stop.wait(self.dice.random() * 0.6)


def asked(text: str, uri: str) -> dict[str, Any]:
    """A user's message with a picture."""
    parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": text}]
    return {"role": "user", "content": parts}


def all_clients(surroundings: Surroundings, seed: int, pause: float = PAUSE) -> list[Client]:
    """One of each kind."""
    return [
        NewPictures("new pictures", surroundings, seed, pause),
        LongConversations("follow-ups", surroundings, seed, pause),
        Decisions("decisions", surroundings, seed, pause),
        HangingUp("hanging up", surroundings, seed, pause),
    ]
