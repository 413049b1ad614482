"""Clients of a server and what each of them must get: the answer of a server that was started for it alone."""

import asyncio
import base64
import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI
from peft import LoraConfig, get_peft_model
from PIL import Image

from fourfold.assistant.images import Attachment
from fourfold.assistant.readouts import ReadoutLibrary
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.assistant.refine.memory import REMEMBERED_HEADER, CorrectionMemory
from fourfold.assistant.refine.record import Correction
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.serving.api.app import create_app
from fourfold.serving.api.keys import KeyRing, collect_keys
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.engine.engine import Engine
from fourfold.serving.looking import Looking
from fourfold.serving.looking.concepts import ConceptReadouts
from tests.serving.engine.conversations import picture
from tests.serving.looking.learnt import scene
from tests.tiny import tiny_model
from tests.trust.traces import Canary

ALICE, BOB, ADMIN = "alice-key-0123456789", "bob-key-0123456789ab", "admin-key-0123456789"
NAME = "lively"
GREEN = "lime"  # what nothing was learnt of
COLOUR = "what colour is the car?"

SCENE, BOX = scene(700, GREEN, "cat")[0], scene(700, GREEN, "cat")[1][GREEN]
PICTURES = [SCENE, scene(701, "dog", GREEN)[0], picture(3), picture(4, (200, 90))]


def key_ring() -> KeyRing:
    """Two ordinary clients and an admin."""
    return collect_keys([ALICE, BOB], None, {"FOURFOLD_ADMIN_KEY": ADMIN})


def uri(image: Image.Image, kind: str = "PNG") -> str:
    """The picture as it travels."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def asked(words: str, *pictures: int) -> list[dict[str, Any]]:
    """A user's turn with pictures by their number."""
    images = [{"type": "image_url", "image_url": {"url": uri(PICTURES[number])}} for number in pictures]
    return [{"role": "user", "content": [*images, {"type": "text", "text": words}]}]


@dataclass(frozen=True, repr=False)
class Ask:
    """A request, known by its name."""

    name: str
    path: str = field(compare=False)
    body: Mapping[str, Any] = field(compare=False)
    picture: int | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return self.name

    @property
    def model(self) -> str:
        return self.body.get("model") or NAME

    @property
    def looks(self) -> bool:
        """Whether what was shown once may answer it."""
        return self.model.endswith("+eyes") or self.path == "/v1/eyes"

    @property
    def adapter(self) -> str:
        """Name of the adapter that it asks for, or ""."""
        plain = self.model.removesuffix("+eyes")
        return "" if plain == NAME else plain

    @property
    def can_be_remembered(self) -> bool:
        return "remembers" in self.name


@dataclass(frozen=True)
class Situation:
    """What the owner of a server has given it.

    Attributes:
        adapters: which of `write_adapters` has a name.
        corrected: pictures whose car's colour was corrected, and the right answer; the newest last.
        shown: names of things shown once, with the pictures that show them, in their order.
    """

    adapters: tuple[tuple[str, str], ...] = ()
    corrected: tuple[tuple[int, str], ...] = ()
    shown: tuple[tuple[str, int], ...] = ()

    def for_one(self, ask: Ask) -> "Situation":
        """The part that may change this one's answer."""
        adapters = tuple(pair for pair in self.adapters if pair[0] == ask.adapter)
        if ask.adapter and not adapters:
            return Situation()
        corrected = [pair for pair in self.corrected if ask.can_be_remembered and pair[0] == ask.picture]
        return Situation(adapters, tuple(corrected[-1:]), self.shown if ask.looks else ())


def _ways() -> dict[str, dict[str, Any]]:
    return {
        "greedy": {"logprobs": True, "top_logprobs": 3},
        "drawn": {"temperature": 1.0, "seed": 3, "top_p": 0.9, "logprobs": True},
        "several": {"temperature": 1.3, "seed": 11, "n": 2, "top_k": 40, "min_p": 0.01},
        "penalised": {"frequency_penalty": 0.7, "presence_penalty": 0.3, "repetition_penalty": 1.2, "logprobs": True},
        "biased": {"logit_bias": {"70": 5, "80": -100}, "temperature": 0.8, "seed": 5, "bad_words": ["dog"]},
        "choice": {"structured_outputs": {"choice": ["red", "the lazy dog", "yes"]}, "logprobs": True},
        "pattern": {"structured_outputs": {"regex": "[a-z]{3} [0-9]{2}"}, "temperature": 1.0, "seed": 8},
    }


def asks() -> list[Ask]:
    """Many kinds of requests that share beginnings, pictures, words and names, as clients of one server do."""
    chat, found = "/v1/chat/completions", list[Ask]()
    turns = [*asked("what is in the picture?", 0), {"role": "assistant", "content": "the car is red."}]
    contexts = {
        "words": [{"role": "user", "content": "how are you?"}],
        "longer words": [{"role": "user", "content": "how are you? describe this image in detail."}],
        "picture": asked("what is in the picture?", 0),
        "other picture": asked("what is in the picture?", 2),
        "wide picture": asked("what is in the picture?", 3),
        "two pictures": asked("what is in the picture?", 2, 0),
        "follow-up": [*turns, {"role": "user", "content": "is it a dog?"}],
    }
    ways = _ways()
    pairs = [
        ("words", "greedy"),
        ("words", "several"),
        ("longer words", "greedy"),
        ("longer words", "pattern"),
        ("picture", "greedy"),
        ("picture", "drawn"),
        ("picture", "choice"),
        ("other picture", "greedy"),
        ("other picture", "penalised"),
        ("wide picture", "drawn"),
        ("two pictures", "greedy"),
        ("two pictures", "biased"),
        ("follow-up", "greedy"),
        ("follow-up", "several"),
    ]
    for context, way in pairs:
        found.append(Ask(f"{context}, {way}", chat, {"messages": contexts[context], **ways[way]}))
    for adapter in ("tuned", "second"):
        body = {"messages": contexts["picture"], "logprobs": True, "model": adapter}
        found.append(Ask(f"{adapter}: picture", chat, body))
    # "memory" is on unless a client says no.
    for number in (0, 2):
        body = {"messages": asked(f"[vqa] {COLOUR}", number), "logprobs": True}
        found.append(Ask(f"remembers {number}", chat, body, number))
        found.append(Ask(f"will not be reminded {number}", chat, {**body, "memory": False}))
    for words in ("where is Rex?", "[refer] where is the dog?", "is there a cat?"):
        body = {"messages": asked(words, 1), "model": NAME + "+eyes"}
        found.append(Ask(f"eyes: {words}", chat, body))
        found.append(Ask(f"plain: {words}", chat, {"messages": asked(words, 1), "logprobs": True}))
    found.append(Ask("eyes alone", "/v1/eyes", {"image": uri(PICTURES[1]), "phrase": "dog"}))
    image = {"type": "input_image", "image_url": uri(PICTURES[0])}
    questions = [
        {"type": "predicate", "instructions": "is there a dog?"},
        {"type": "choice", "instructions": COLOUR, "choices": [{"value": "red"}, {"value": "the lazy dog"}]},
        {"type": "score", "instructions": "how many?", "levels": [{"label": "0"}, {"label": "1"}, {"label": "2"}]},
    ]
    body = {"model": NAME, "input": [{"role": "user", "content": [image]}], "questions": questions}
    found.append(Ask("decisions", "/v1/decisions", body))
    text = {"type": "input_text", "text": "what is in the picture?"}
    body = {"model": NAME, "input": [{"role": "user", "content": [image, text]}], "temperature": 1.0, "seed": 4}
    found.append(Ask("response", "/v1/responses", body))
    source = {"type": "base64", "media_type": "image/png", "data": uri(PICTURES[2]).partition(",")[2]}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "what is in the picture?"}]
    found.append(Ask("message", "/v1/messages", {"model": NAME, "messages": [{"role": "user", "content": content}]}))
    found.append(Ask("damaged", chat, {"messages": asked("what is this?")[:0] + _damaged()}))
    found.append(Ask("nobody", chat, {"messages": contexts["words"], "model": "nobody"}))
    lengths = {"/v1/responses": {"max_output_tokens": 10}, "/v1/decisions": {}, "/v1/eyes": {}}
    return [replace(ask, body={**ask.body, **lengths.get(ask.path, {"max_tokens": 10})}) for ask in found]


def _damaged() -> list[dict[str, Any]]:
    cut = uri(PICTURES[2])[:400]
    image = {"type": "image_url", "image_url": {"url": cut[: len(cut) - len(cut.partition(",")[2]) % 4]}}
    return [{"role": "user", "content": [image, {"type": "text", "text": "what is this?"}]}]


def wrong(content: list[dict[str, Any]], canary: Canary) -> list[dict[str, Any]]:
    """Requests that are refused in many places, each with something to be kept quiet about."""
    base = {"messages": [{"role": "user", "content": content}], "max_tokens": 4}
    cut = {"type": "image_url", "image_url": {"url": canary.attachment.data_uri[:-600]}}
    secret = canary.words
    return [
        {**base, "model": secret},
        {**base, secret: 1, "guided_regex": secret + "("},
        {**base, "temperature": secret},
        {**base, "stop": [secret] * 40},
        {**base, "response_format": {"type": secret}},
        {**base, "structured_outputs": {"json": {"type": "object", "properties": {secret: {"not": {}}}}}},
        {**base, "structured_outputs": {"grammar": f"start: {secret}"}},
        {**base, "logit_bias": {secret: 1}},
        {**base, "tools": [{"type": "function", "function": {"name": secret}}], "tool_choice": secret},
        {**base, "messages": [{"role": secret, "content": secret}]},
        {**base, "messages": [{"role": "user", "content": secret * 20_000}]},
        {**base, "messages": [{"role": "user", "content": [cut, {"type": "text", "text": secret}]}]},
        {**base, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": secret}}]}]},
    ]


def told(ask: Ask, response: httpx.Response) -> Any:
    """All that a client may compare: the whole body but for names, times and what was read from a cache."""
    found = response.json()
    found = {key: value for key, value in found.items() if key not in ("id", "created", "created_at", "completed_at")}
    usage = found.pop("usage", None) or {}
    counts = {key: value for key, value in usage.items() if isinstance(value, int)}
    if ask.path == "/v1/messages":  # which counts what was cached apart
        counts = {
            "input": sum(value for key, value in counts.items() if "input" in key),
            "output": counts["output_tokens"],
        }
    if ask.path == "/v1/responses":
        found["output"] = [{key: value for key, value in item.items() if key != "id"} for item in found["output"]]
    if response.status_code == 404:  # it names all models, which are everybody's to know
        found = {"code": found["error"]["code"]}
    return response.status_code, found, counts, REMEMBERED_HEADER in response.headers


def write_adapters(directory: Path) -> dict[str, Path]:
    """Two LoRA adapters of a tiny checkpoint that change its answers."""
    found = {}
    for seed, name in enumerate("AB", 1):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, target_modules=r".*language_model.*(q_proj|v_proj|up_proj)", init_lora_weights=False)
        get_peft_model(tiny_model(vocab_size=500), config).save_pretrained(directory / name)
        found[name] = directory / name
    return found


@dataclass
class World:
    """What every server of these tests is made of."""

    checkpoint: Path
    adapters: dict[str, Path]
    library: ReadoutLibrary
    directory: Path
    _known: dict[tuple[Ask, Situation], Any] = field(default_factory=dict)
    _stores: int = 0

    @contextlib.contextmanager
    def engine(self, dtype: Any = "int8") -> Iterator[Engine]:
        """A new one."""
        with Engine.load(self.checkpoint, dtype=dtype, device="cpu", name=NAME, max_num_seqs=4) as engine:
            yield engine

    def stores(self) -> tuple[CorrectionStore, ConceptStore]:
        """Empty ones."""
        self._stores += 1
        directory = self.directory / str(self._stores)
        return CorrectionStore(directory), ConceptStore(directory)

    def looking(self, engine: Engine, concepts: ConceptStore) -> Looking:
        return Looking(engine, self.library, ConceptReadouts(concepts, engine, self.library))

    def app(self, engine: Engine, corrections: CorrectionStore, concepts: ConceptStore) -> FastAPI:
        """The whole application."""
        memory, looking = CorrectionMemory(corrections), self.looking(engine, concepts)
        return create_app(engine, keys=key_ring(), limits=ServerLimits(), memory=memory, looking=looking)

    def alone(self, ask: Ask, situation: Situation) -> Any:
        """What a server says that was started now and is asked nothing else."""
        situation = situation.for_one(ask)
        if (ask, situation) not in self._known:
            with self.engine() as engine:
                corrections, concepts = self.stores()
                for name, which in situation.adapters:
                    engine.load_adapter(name, self.adapters[which])
                for number, answer in situation.corrected:
                    correct(corrections, number, answer)
                for name, number in situation.shown:
                    show(concepts, name, number)
                with pytest.MonkeyPatch.context() as patch:  # describing all routes takes longer than the answer
                    patch.setattr(FastAPI, "openapi", lambda app: {"paths": {}})
                    app = self.app(engine, corrections, concepts)
                self._known[ask, situation] = told(ask, asyncio.run(_once(app, ask)))
        return self._known[ask, situation]


async def _once(app: FastAPI, ask: Ask) -> httpx.Response:
    headers = {"authorization": f"Bearer {ALICE}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://alone", headers=headers
    ) as client:
        return await client.post(ask.path, json=ask.body, timeout=60)


def correct(store: CorrectionStore, number: int, answer: str) -> str:
    """Correct the colour of the car in a picture; the record's id."""
    messages = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": COLOUR}]},)
    record = Correction(messages=messages, rejected="blue", chosen=answer, consent=False, remember=True)
    return store.add(record, Attachment.from_image(PICTURES[number])).id


def show(store: ConceptStore, name: str, number: int) -> None:
    """Show something once in a picture, wherever the first one has its green square."""
    store.show(name, Attachment.from_image(PICTURES[number]), [BOX])
