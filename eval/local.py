"""Asking a checkpoint in this process, in batches through the local engine."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fourfold.eval.asking import Ask
from fourfold.eval.log import AnswerLog
from fourfold.eval.progress import progress_bar
from fourfold.eval.prompting import PromptConfig
from fourfold.serving.engine.requests import Request, Sampling

if TYPE_CHECKING:
    from fourfold.serving.engine.engine import Engine

_BATCH = 64


def ask_engine(engine: "Engine", asks: Sequence[Ask], log: AnswerLog, manner: PromptConfig) -> None:
    """Ask everything that has no answer yet; candidates are ranked by the mean log-likelihood of their own tokens."""
    from fourfold.assistant.images import load_image_file

    waiting = [ask for ask in asks if ask.key not in log.done]
    # Questions about one image together: it is encoded once.
    waiting.sort(key=lambda ask: str(ask.image))
    sampling = Sampling(max_tokens=manner.max_tokens)
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
                requests.append(Request(ask.messages(part), sampling, template=manner.template))
            for ask, request, completion in zip(batch, requests, engine.generate(requests), strict=True):
                fields: dict[str, Any] = {"answer": completion.text, "finish_reason": completion.finish_reason}
                if ask.candidates:
                    fields["scores"] = engine.score(request, ask.candidates)
                log.add(ask.key, **fields)
                progress.advance(bar)
