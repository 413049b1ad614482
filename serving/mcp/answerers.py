"""Who answers the tools' questions, and a model in this process that does, loaded when it is first asked."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fourfold.assistant.images import Attachment
from fourfold.prompts.errors import UserError
from fourfold.serving.looking.claim import EYES, Claim, own_claims
from fourfold.serving.mcp.results import Decision

if TYPE_CHECKING:
    from fourfold.serving.engine.engine import Engine
    from fourfold.serving.looking import Looking

Tell = Callable[[str], None]
"""Told in a few words what takes long."""


@dataclass(frozen=True)
class Closed:
    """A closed question: its words, and its options; without any it is answered by yes or no."""

    words: str
    options: tuple[str, ...] = ()


class Answerer(Protocol):
    """Answers questions about pictures. Thread-safe."""

    name: str
    """Of the model; "" until something was asked."""

    def answer(
        self, images: Sequence[Attachment], question: str, max_tokens: int, cancel: threading.Event, tell: Tell
    ) -> tuple[str, tuple[Claim, ...]]:
        """The answer as the model writes it, and what it claims.

        Args:
            images: in the order in which they are shown.
            question: with its task tag, if it has one.
            max_tokens: longest answer.
            cancel: when set, the answer of a model in this process ends early.
            tell: told what takes long.

        Raises:
            UserError: an image, or the question, cannot be read; the model cannot be reached.
        """

    def decide(self, image: Attachment, questions: Sequence[Closed], tell: Tell) -> list[Decision]:
        """Probabilities of the options. Raises UserError as `answer`."""

    def close(self) -> None:
        """Give back what it holds."""


@dataclass
class LocalModel:
    """A model in this process.

    Attributes:
        load: loads it: the engine, and its eyes where it has some.
    """

    load: "Callable[[], tuple[Engine, Looking | None]]"
    name: str = field(default="", init=False)
    _loaded: "tuple[Engine, Looking | None] | None" = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def answer(
        self, images: Sequence[Attachment], question: str, max_tokens: int, cancel: threading.Event, tell: Tell
    ) -> tuple[str, tuple[Claim, ...]]:
        from fourfold.serving.engine.requests import Request, Sampling

        parts: list[dict[str, Any]] = [{"type": "image", "image": image.decode()} for image in images]
        engine, eyes = self._model(tell)
        tell("looking at the picture")
        content = [*parts, {"type": "text", "text": question}]
        request = Request([{"role": "user", "content": content}], Sampling(max_tokens=max_tokens))
        looked = None if eyes is None else eyes.look(request, cancel)
        deltas = engine.stream(request if looked is None else looked.request, cancel)
        text = "".join(delta.text for delta in deltas)
        return text, own_claims(text) if looked is None else looked.claims(text)

    def decide(self, image: Attachment, questions: Sequence[Closed], tell: Tell) -> list[Decision]:
        from fourfold.serving.decisions.decide import Decider, calibration_of
        from fourfold.serving.decisions.questions import choice, predicate
        from fourfold.serving.engine.requests import Request

        shown = {"type": "image", "image": image.decode()}
        engine, eyes = self._model(tell)
        tell("looking at the picture")
        decider = Decider(engine, Request([{"role": "user", "content": [shown]}]), calibration_of(engine, None), eyes)
        asked = [choice(one.words, one.options) if one.options else predicate(one.words) for one in questions]
        decisions = []
        for one, decided in zip(questions, decider.decide(asked), strict=True):
            if decided.refusal is not None:
                raise UserError(f"{one.words[:80]!r} cannot be asked: {decided.refusal}")
            texts = [option.text for option in decided.question.options]
            decisions.append(
                Decision(
                    question=one.words,
                    answer=texts[decided.likeliest],
                    probabilities=dict(zip(texts, decided.probabilities, strict=True)),
                    calibrated=decided.calibrated,
                    source=decided.source,
                )
            )
        return decisions

    def close(self) -> None:
        with self._lock:
            if self._loaded is not None:
                self._loaded[0].close()
            self._loaded = None

    def _model(self, tell: Tell) -> "tuple[Engine, Looking | None]":
        with self._lock:
            if self._loaded is None:
                tell("loading the model")
                self._loaded = self.load()
                self.name = self._loaded[0].model_name + (EYES if self._loaded[1] is not None else "")
            return self._loaded


def local_model(
    model: str | None, quantization: Literal["4bit", "8bit"] | None, device: str, store: Path | None, *, eyes: bool
) -> LocalModel:
    """The model of a checkpoint; nothing is looked at before it is asked.

    Args:
        model: as `resolve_model` takes it.
        quantization, device: of the language model, see `Engine.load`.
        store: of what was shown once.
        eyes: whether its read-outs are asked.
    """

    def load() -> "tuple[Engine, Looking | None]":
        from fourfold.assistant.checkpoints.resolve import resolve_model
        from fourfold.assistant.refine.concepts.store import ConceptStore
        from fourfold.assistant.refine.store import default_directory
        from fourfold.serving.engine.engine import Engine
        from fourfold.serving.looking import Looking

        directory = resolve_model(model)
        engine = Engine.load(directory, quantization=quantization, device=device)
        looking = Looking.load(engine, directory, ConceptStore(store or default_directory())) if eyes else None
        return engine, looking

    return LocalModel(load)
