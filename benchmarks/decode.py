"""Tokens a second of one answer: ours in every number format, plain `generate`, llama.cpp and vLLM, in turns."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.figures import Figure, in_turns
from benchmarks.limits import bandwidth
from benchmarks.peers import decoding_peers

if TYPE_CHECKING:
    from fourfold.serving.engine.engine import Engine

_MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Tell me a long story about a fox and a bear."}]
FORMATS = {
    "fourfold": {},
    "fourfold float32": {"dtype": "float32"},
    "fourfold 4bit": {"quantization": "4bit"},
    "fourfold 8bit": {"quantization": "8bit"},
}
"""How each of ours is loaded; the first is the default."""


def decode_rates(model: Path, rounds: int, tokens: int) -> tuple[dict[str, Figure], dict[str, str]]:
    """Figures by name, and the versions of the peers.

    Args:
        model: checkpoint directory.
        rounds: runs of each.
        tokens: said in a run, after the first one; nobody may stop earlier.
    """
    from fourfold.serving.engine.engine import Engine

    with ExitStack() as open_engines:
        engines: dict[str, Engine] = {}
        for name, options in FORMATS.items():
            engines[name] = open_engines.enter_context(Engine.load(model, **options))  # type: ignore[arg-type]
            engines[name].end_ids = frozenset()  # answers end where they are told to
        workers, absent = open_engines.enter_context(decoding_peers(model, torch.get_num_threads()))
        plain = _Plain(model)
        contestants = {name: _engine_rate(engine, tokens) for name, engine in engines.items()}
        contestants["generate, float32"] = lambda: plain.rate(tokens)
        for name, worker in workers.items():
            contestants[name] = lambda worker=worker: tokens / worker.ask({"tokens": tokens})["seconds"]
        in_turns(contestants, 1, "tokens/s")  # what is done once, at first use
        figures = in_turns({"memory": bandwidth, **contestants}, rounds, "tokens/s")
        figures["memory"].unit = "GB/s"
        best = max(figures["memory"].runs)
        for name, reason in absent.items():
            figures[name] = Figure(name, "tokens/s", reason=reason)
        for name, engine in engines.items():
            read = bytes_a_token(engine)
            figures[name].limit = best * 1e9 / read
            figures[name].limit_is = f"{best:.1f} GB/s over {read / 1e6:.0f} MB of weights a token"
        return figures, {name: worker.version for name, worker in workers.items()}


def bytes_a_token(engine: "Engine") -> int:
    """Weights of the language model and its head, all of which every token reads."""
    runner = engine._runner
    if runner._decoder is not None:
        return runner._decoder.weight_bytes
    layers = sum(parameter.nbytes for parameter in runner.model.model.language_model.layers.parameters())
    return layers + runner.model.lm_head.weight.nbytes


def _engine_rate(engine: "Engine", tokens: int) -> Any:
    from fourfold.serving.engine.engine import Request, Sampling

    request = Request(_MESSAGES, Sampling(max_tokens=tokens + 1))

    def rate() -> float:
        completion = engine.generate([request])[0]
        assert completion.completion_tokens == tokens + 1
        return tokens / completion.timings["decode"]

    return rate


class _Plain:
    """transformers' own loop on our model class, in float32."""

    def __init__(self, model: Path) -> None:
        from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor

        self._model = MiniGPTv2ForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
        processor = MiniGPTv2Processor.from_pretrained(model)
        self._inputs = processor.apply_chat_template(
            _MESSAGES, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )

    def rate(self, tokens: int) -> float:
        first = self._seconds(1)
        return tokens / (self._seconds(tokens + 1) - first)

    def _seconds(self, tokens: int) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            self._model.generate(**self._inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        return time.perf_counter() - started
