"""Who answers: one interface, and a checkpoint in this process. `endpoint.EndpointModel` asks servers."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.assistant.checkpoints.hub.download import checkpoint_name
from fourfold.assistant.unicode import well_formed
from fourfold.eval.task import Sample
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from fourfold.serving.engine.engine import Engine
    from fourfold.serving.looking import Looking

_BATCH = 64
_LOOKERS = 8  # threads that look at pictures before answering


@dataclass(frozen=True)
class Output:
    """What a model made of a sample.

    Attributes:
        text: the written answer; None where there is none.
        scores: log-likelihood of each candidate; None where there are no candidates, or the server does not tell.
        error: why there is no answer, in one line.
        fields: whatever else is known, such as `finish_reason`, `seconds` and `endpoint`; plain JSON.
    """

    text: str | None = None
    scores: tuple[float, ...] | None = None
    error: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Half an emoji, as a server may send it, could not be written down.
        for name in ("text", "error"):
            if (said := getattr(self, name)) is not None:
                object.__setattr__(self, name, well_formed(said))

    def to_record(self) -> dict[str, Any]:
        """As it stands in the log."""
        told = {"answer": self.text, "scores": None if self.scores is None else list(self.scores), "error": self.error}
        return {name: value for name, value in told.items() if value is not None} | dict(self.fields)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Output":
        """The output of a log's line."""
        own = {"sample", "configuration", "answer", "scores", "error"}
        scores = record.get("scores")
        return cls(
            record.get("answer"),
            None if scores is None else tuple(scores),
            record.get("error"),
            {name: value for name, value in record.items() if name not in own},
        )


class NoAnswer(UserError):
    """Nobody answers any more."""


class AllRefused(UserError):
    """A server refuses whatever it is asked, for one and the same reason."""


OnOutput = Callable[[Sample, Output], None]


def world_size() -> int:
    """How many processes of `accelerate launch` share the work; 1 outside of it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Model(ABC):
    """Answers samples greedily; used as a context, it lets go at the end of what it holds.

    Attributes:
        ranks_whole_candidates: `scores` are of all tokens of a candidate, not of the first alone.
    """

    ranks_whole_candidates: bool = True

    @property
    @abstractmethod
    def identity(self) -> str:
        """What the answers depend on: the served name, or the checkpoint's name and fingerprint."""

    @abstractmethod
    def generate(
        self, samples: Sequence[Sample], *, max_tokens: int, template: Mapping[str, bool], on_output: OnOutput
    ) -> None:
        """Answer every sample and rank its candidates, in whatever order is quickest.

        Args:
            samples: to be answered.
            max_tokens: of an answer, where a sample says nothing else.
            template: variables for the chat template.
            on_output: is told each output as soon as it is there; what failed has an `error`.

        Raises:
            UserError: nobody answers (any more).
        """

    def close(self) -> None:  # noqa: B027
        """Let go of what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EngineModel(Model):
    """A checkpoint in this process, loaded with the first question; under `accelerate launch` each process has its own.

    Args:
        checkpoint: its folder.
        device: as for `Engine.load`.
        dtype: as for `Engine.load`.
        name: what `identity` calls it; by default the folder's name.
        adapter: folder of a LoRA adapter that answers; None for the model alone.
        shared: whose engine to use, so that an image is encoded once for several adapters.
        eyes: whether the loop of `serving.looking` answers, where the checkpoint has read-outs. Nothing that a user
            showed is known to it.
    """

    def __init__(
        self,
        checkpoint: Path,
        *,
        device: str = "auto",
        dtype: Any = "auto",
        name: str | None = None,
        adapter: Path | None = None,
        shared: "EngineModel | None" = None,
        eyes: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.name = name or checkpoint_name(checkpoint)
        self._device, self._dtype = device, dtype
        self._adapter, self._loaded = adapter, ""
        self._shared = shared
        self._eyes = eyes
        if device == "cpu" and world_size() > 1:
            from accelerate import PartialState

            PartialState(cpu=True)  # the processes meet without GPUs, too

    @cached_property
    def fingerprint(self) -> str:
        """Of the checkpoint."""
        return self._shared.fingerprint if self._shared else model_fingerprint(self.checkpoint)

    @cached_property
    def identity(self) -> str:
        """Name and fingerprint of the checkpoint, what its eyes are, and the adapter's revision where there is one."""
        name = f"{self.name}@{self.fingerprint}"
        if self._eyes:
            from fourfold.serving.looking import eyes_revision

            name += eyes_revision(self.checkpoint)
        if self._adapter is None:
            return name
        from fourfold.assistant.refine.adapter import revision_of

        return f"{name}+{revision_of(self._adapter)}"

    def with_adapter(self, adapter: Path | None) -> "EngineModel":
        """The same model in the same engine with this adapter, or with none; close it to unload the adapter."""
        return EngineModel(
            self.checkpoint, name=self.name, adapter=adapter, shared=self._shared or self, eyes=self._eyes
        )

    @cached_property
    def engine(self) -> "Engine":
        """The engine, loaded now if it is not."""
        from fourfold.serving.engine.engine import Engine

        if self._shared is not None:
            return self._shared.engine
        device = self._device
        if device == "auto" and world_size() > 1:
            from accelerate import PartialState

            device = str(PartialState().device)
        return Engine.load(self.checkpoint, device=device, dtype=self._dtype, name=self.name)

    @cached_property
    def looking(self) -> "Looking | None":
        """The loop that answers; None for the model alone."""
        if not self._eyes:
            return None
        from fourfold.serving.looking import Looking

        return Looking.load(self.engine, self.checkpoint)

    def generate(
        self, samples: Sequence[Sample], *, max_tokens: int, template: Mapping[str, bool], on_output: OnOutput
    ) -> None:
        """In batches; candidates are ranked by the mean log-likelihood of their own tokens."""
        from fourfold.serving.engine.requests import Request, Sampling

        if not samples:
            return
        if self._adapter is not None and not self._loaded:
            self._loaded = self.engine.load_adapter(f"eval-{id(self):x}", self._adapter).name
        # Questions about one image together: it is read and encoded once.
        samples = sorted(samples, key=lambda sample: sample.image.key if sample.image else "")
        for start in range(0, len(samples), _BATCH):
            opened: dict[str, Any] = {}
            asked = []
            for sample in samples[start : start + _BATCH]:
                part = None
                try:
                    if sample.image is not None:
                        if sample.image.key not in opened:
                            opened[sample.image.key] = sample.image.open()
                        part = {"type": "image", "image": sample.picture(opened[sample.image.key])}
                except UserError as error:  # a damaged file, as a server would refuse it
                    on_output(sample, Output(error=str(error)))
                    continue
                sampling = Sampling(max_tokens=sample.max_tokens or max_tokens)
                request = Request(sample.messages(part), sampling, adapter=self._loaded, template=template)
                asked.append((sample, request))
            requests = [request for _, request in asked]
            looked = []
            if self.looking is not None:
                with ThreadPoolExecutor(_LOOKERS) as pool:  # what they ask the model meanwhile shares its batches
                    looked = list(pool.map(self.looking.look, requests))
                requests = [one.request for one in looked]
            completions = self.engine.generate(requests)
            for place, ((sample, request), completion) in enumerate(zip(asked, completions, strict=True)):
                scores = tuple(self.engine.score(request, sample.candidates)) if sample.candidates else None
                fields: dict[str, Any] = {"finish_reason": completion.finish_reason}
                if looked:
                    fields["claims"] = [claim.to_json() for claim in looked[place].claims(completion.text)]
                on_output(sample, Output(completion.text, scores, fields=fields))

    def close(self) -> None:
        """Unload the adapter, and the checkpoint unless it is shared; the next question would load them again."""
        engine = self.__dict__.pop("engine", None)
        self.__dict__.pop("looking", None)
        if engine is not None and self._loaded:
            engine.unload_adapter(self._loaded)
        self._loaded = ""
        if engine is not None and self._shared is None:
            engine.close()
