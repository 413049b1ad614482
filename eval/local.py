"""Asking a checkpoint in this process, in batches through the local engine."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.answers import AnswerLog
from eval.asking import Ask
from eval.progress import progress_bar
from serving.requests import Request, Sampling

if TYPE_CHECKING:
    from serving.engine import Engine

_BATCH = 64
_TEMPLATE = "chat_template.jinja"


class LocalModel:
    """A checkpoint that is loaded when it is first needed and kept.

    Args:
        directory: of the checkpoint.
        device: as for `Engine.load`.
    """

    def __init__(self, directory: Path, device: str) -> None:
        self._directory, self._device = directory, device
        self._engine: Engine | None = None
        self._template: dict[str, bool] = {}

    def engine(self, template: Mapping[str, bool]) -> "Engine":
        """The engine, its chat template told those variables of `template` that it knows.

        Raises:
            UserError: the checkpoint is unusable.
        """
        if self._engine is not None and self._template != dict(template):
            self.close()
        if self._engine is None:
            from serving.engine import Engine

            self._template = dict(template)
            with tempfile.TemporaryDirectory(prefix="fourfold-") as view:
                told = _telling(self._directory, Path(view), template)
                self._engine = Engine.load(told, device=self._device, name=self._directory.name)
        return self._engine

    def close(self) -> None:
        """End the engine, if there is one."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def _telling(directory: Path, view: Path, template: Mapping[str, bool]) -> Path:
    """The checkpoint itself, or a view of it whose chat template has its variables set, with links to all else."""
    source = directory / _TEMPLATE
    text = source.read_text(encoding="utf-8") if source.is_file() else ""
    known = {name: value for name, value in template.items() if name in text}
    if not known:
        return directory  # another model's template: how its prompts begin is its own affair
    for path in directory.iterdir():
        if path.name != _TEMPLATE:
            (view / path.name).symlink_to(path.resolve())
    told = "".join(f"{{%- set {name} = {str(value).lower()} -%}}" for name, value in known.items())
    (view / _TEMPLATE).write_text(told + text, encoding="utf-8")
    return view


def ask_engine(engine: "Engine", asks: Sequence[Ask], log: AnswerLog, *, max_tokens: int) -> None:
    """Ask everything that has no answer yet; candidates are ranked by the mean log-likelihood of their own tokens."""
    from serving.images import load_image_file

    waiting = [ask for ask in asks if ask.key not in log.done]
    # Questions about one image together: it is encoded once.
    waiting.sort(key=lambda ask: str(ask.image))
    with progress_bar() as progress:
        bar = progress.add_task("asking", total=len(asks), completed=len(asks) - len(waiting))
        for start in range(0, len(waiting), _BATCH):
            batch = waiting[start : start + _BATCH]
            opened = {ask.image: load_image_file(ask.image) for ask in batch if ask.image is not None}
            requests = []
            for ask in batch:
                part = None
                if ask.image is not None:
                    image = opened[ask.image]
                    part = {"type": "image", "image": ask.edit(image) if ask.edit else image}
                requests.append(Request(ask.messages(part), Sampling(max_tokens=max_tokens)))
            for ask, request, completion in zip(batch, requests, engine.generate(requests), strict=True):
                fields: dict[str, Any] = {"answer": completion.text, "finish_reason": completion.finish_reason}
                if ask.candidates:
                    fields["scores"] = engine.score(request, ask.candidates)
                log.add(ask.key, **fields)
                progress.advance(bar)
