"""Who answers: endpoints, or a checkpoint in this process."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fourfold.eval.asking import Ask
from fourfold.eval.log import AnswerLog, model_fingerprint
from fourfold.eval.prompting import PromptConfig
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from fourfold.serving.engine.engine import Engine

Records = dict[str, dict[str, Any]]
"""Log records by sample."""


@dataclass
class Answerer:
    """Either `endpoints` or `checkpoint` answers, greedily. A checkpoint stays loaded until `close`, or a `with` ends.

    Attributes:
        endpoints: base URLs of OpenAI-compatible servers that serve the same model.
        checkpoint: folder of a model that answers in this process.
        model: name of the served model; None for the first that the first endpoint lists.
        api_key: for the endpoints.
        seed: sent along, for servers that need one even for greedy decoding.
        concurrency: requests in flight an endpoint at most.
        device: of the checkpoint, as for `Engine.load`.

    Raises:
        UserError: neither or both are given.
    """

    endpoints: tuple[str, ...] = ()
    checkpoint: Path | None = None
    model: str | None = None
    api_key: str = "none"
    seed: int = 0
    concurrency: int = 16
    device: str = "auto"
    _identity: str | None = field(default=None, init=False, repr=False)
    _engine: "Engine | None" = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if bool(self.endpoints) == bool(self.checkpoint):
            raise UserError("give either --endpoint URL (one or more) or --model with a checkpoint")

    def identity(self) -> str:
        """What the answers depend on: the served name, or the checkpoint's name and fingerprint."""
        if self._identity is None:
            self._identity = self._find_identity()
        return self._identity

    def _find_identity(self) -> str:
        if self.checkpoint is not None:
            return f"{self.checkpoint.name}@{model_fingerprint(self.checkpoint)}"
        if self.model is not None:
            return self.model
        from fourfold.eval.endpoint import served_model

        return served_model(self.endpoints[0], self.api_key)

    def answer(
        self, asks: Sequence[Ask], out: Path, configuration: dict[str, Any], manner: PromptConfig
    ) -> Records | None:
        """Ask what `out` has no answer to yet; every record there is, or None in helpers of `accelerate launch`.

        Args:
            asks: the questions.
            out: folder with the log of answers.
            configuration: all that the answers depend on, `model` among it.
            manner: of which length and chat template are used here; the wording is in the questions already.

        Raises:
            UserError: nobody answers (any more); what was answered is kept.
        """
        if self.checkpoint is not None:
            return self._in_process(asks, out, configuration, manner)
        from fourfold.eval.endpoint import Terms, ask_endpoints

        terms = Terms(
            model=configuration["model"],
            api_key=self.api_key,
            max_tokens=manner.max_tokens,
            template=manner.template,
            seed=self.seed,
            concurrency=self.concurrency,
        )
        with AnswerLog(out / "answers.jsonl", configuration) as log:
            ask_endpoints(asks, log, self.endpoints, terms)
            return log.done

    def close(self) -> None:
        """Let go of the checkpoint; the next question would load it again."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _in_process(
        self, asks: Sequence[Ask], out: Path, configuration: dict[str, Any], manner: PromptConfig
    ) -> Records | None:
        from fourfold.eval.local import ask_engine
        from fourfold.serving.engine.engine import Engine

        assert self.checkpoint is not None
        index, processes, device = 0, 1, self.device
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            state = PartialState(cpu=self.device == "cpu")
            index, processes = state.process_index, state.num_processes
            device = str(state.device) if self.device == "auto" else self.device
        # What is done is looked up in all logs before anybody writes, so that another number of processes can go on.
        done = logged(out, configuration)
        if processes > 1:
            state.wait_for_everyone()
        share = [ask for ask in asks if ask.key not in done][index::processes]
        if share:
            if self._engine is None:
                self._engine = Engine.load(self.checkpoint, device=device)
            name = "answers.jsonl" if processes == 1 else f"answers-{index}.jsonl"
            with AnswerLog(out / name, configuration) as log:
                ask_engine(self._engine, share, log, manner)
        if processes > 1:
            state.wait_for_everyone()
        return logged(out, configuration) if index == 0 else None


def logged(out: Path, configuration: dict[str, Any]) -> Records:
    """The answers under this configuration in all logs of a folder."""
    logs = sorted(out.glob("answers*.jsonl"))
    if not logs:
        return {}
    with AnswerLog(logs[0], configuration, logs[1:]) as log:
        return log.done
