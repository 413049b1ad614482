"""Tokens a second of one answer: ours in every number format, plain `generate` and llama.cpp, in turns."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import torch

from benchmarks.figures import Figure, in_turns
from benchmarks.limits import bandwidth
from benchmarks.llama import LlamaCpp
from benchmarks.questions import STORY, question
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.serving.engine.engine import Engine, Request, Sampling

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
    contestants: dict[str, Callable[[], float]] = {}
    absent, versions = {}, {}
    with ExitStack() as running:
        engines: dict[str, Engine] = {}
        for name, options in FORMATS.items():
            engines[name] = engine = running.enter_context(Engine.load(model, **options))  # type: ignore[arg-type]
            engine.end_ids = frozenset()  # answers end where they are told to
            contestants[name] = lambda engine=engine: _engine_rate(engine, tokens)
        plain = _Plain(model)
        contestants["generate, float32"] = lambda: plain.rate(tokens)
        try:
            llama = running.enter_context(closing(LlamaCpp(STORY, torch.get_num_threads())))
            contestants["llama.cpp"], versions["llama.cpp"] = lambda: llama.rate(tokens), llama.version
        except (RuntimeError, OSError) as error:
            absent["llama.cpp"] = str(error)
        in_turns(contestants, 1, "tokens/s")  # what is done once, at first use
        figures = in_turns({"memory": bandwidth, **contestants}, rounds, "tokens/s")
        figures["memory"].unit = "GB/s"
        best = max(figures["memory"].runs)
        for name, engine in engines.items():
            read = bytes_a_token(engine)
            figures[name].limit = best * 1e9 / read
            figures[name].limit_is = f"{best:.1f} GB/s over {read / 1e6:.0f} MB of weights a token"
    return figures | {name: Figure("tokens/s", reason=reason) for name, reason in absent.items()}, versions


def bytes_a_token(engine: Engine) -> int:
    """Weights of the language model and its head, all of which every token reads."""
    runner = engine.model_runner
    if runner.decoder is not None:
        return runner.decoder.weight_bytes
    layers = sum(parameter.nbytes for parameter in runner.model.model.language_model.layers.parameters())
    return layers + runner.model.lm_head.weight.nbytes


def _engine_rate(engine: Engine, tokens: int) -> float:
    completion = engine.generate([Request([question(STORY)], Sampling(max_tokens=tokens + 1))])[0]
    assert completion.completion_tokens == tokens + 1
    return tokens / completion.timings["decode"]


class _Plain:
    """transformers' own loop on our model class, in float32."""

    def __init__(self, model: Path) -> None:
        self._model = MiniGPTv2ForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
        self._inputs = MiniGPTv2Processor.from_pretrained(model).apply_chat_template(
            [question(STORY)], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )

    def rate(self, tokens: int) -> float:
        first = self._seconds(1)
        return tokens / (self._seconds(tokens + 1) - first)

    def _seconds(self, tokens: int) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            self._model.generate(**self._inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        return time.perf_counter() - started
