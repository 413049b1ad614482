"""Tokens a second of one answer: ours, in float32 too, plain `generate` and llama.cpp, in turns."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import Figure, in_turns, seconds
from benchmarks.questions import STORY, question
from benchmarks.speed.limits import bandwidth, work_of
from benchmarks.speed.llama import LlamaCpp
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.serving.engine.engine import Engine, Request, Sampling
from fourfold.serving.engine.onnx_backend.model import OnnxModel

FORMATS: dict[str, dict[str, Any]] = {"fourfold": {}, "fourfold float32": {"dtype": "float32"}}
"""How each of ours is loaded; the first is the default."""


def decode_rates(model: Path, rounds: int, tokens: int) -> tuple[dict[str, Figure], dict[str, str]]:
    """Figures by name, and the versions of the peers.

    Args:
        model: checkpoint directory.
        rounds: runs of each.
        tokens: said in a run, after the first one; nobody may stop earlier. `generate` says a quarter of them.
    """
    contestants: dict[str, Callable[[], float]] = {}
    absent, versions = {}, {}
    with ExitStack() as running:
        engines: dict[str, Engine] = {}
        for name, options in FORMATS.items():
            engines[name] = engine = running.enter_context(Engine.load(model, **options))
            contestants[name] = partial(_engine_rate, engine, tokens)
        contestants["generate, float32"] = _plain_rate(model, max(2, tokens // 4))
        try:
            llama = running.enter_context(closing(LlamaCpp(STORY, torch.get_num_threads())))
            contestants["llama.cpp"], versions["llama.cpp"] = lambda: llama.rate(tokens), llama.version
        except Exception as error:  # a peer that is not here must not cost the others' figures
            absent["llama.cpp"] = str(error).partition("\n")[0][:300]
        in_turns(contestants, 1, "tokens/s")  # what is done once, at first use
        figures = in_turns({"memory": bandwidth, **contestants}, rounds, "tokens/s")
        figures["memory"].unit = "GB/s"
        best = max(figures["memory"].runs)
        for name, engine in engines.items():
            read = bytes_a_token(engine, model)
            figures[name].limit = best * 1e9 / read
            figures[name].limit_is = f"{best:.1f} GB/s over {read / 1e6:.0f} MB of weights a token"
    return figures | {name: Figure("tokens/s", reason=reason) for name, reason in absent.items()}, versions


def bytes_a_token(engine: Engine, model: Path) -> int:
    """Weights of the language model and its head, all of which every token reads; float32 where torch computes."""
    base = engine.model_runner.base
    return base.decoder.weight_bytes if isinstance(base, OnnxModel) else 4 * work_of(model).token_weights


def _engine_rate(engine: Engine, tokens: int) -> float:
    exactly = Sampling(max_tokens=tokens + 1, ignore_eos=True)
    completion = engine.generate([Request([question(STORY)], exactly)])[0]
    assert completion.completion_tokens == tokens + 1
    return tokens / completion.timings["decode"]


def _plain_rate(model: Path, tokens: int) -> Callable[[], float]:
    """transformers' own loop on our model class, in float32."""
    plain = MiniGPTv2ForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    inputs = MiniGPTv2Processor.from_pretrained(model).apply_chat_template(
        [question(STORY)], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )

    @torch.inference_mode()
    def saying(count: int) -> float:
        exactly = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
        return seconds(lambda: plain.generate(**inputs, **exactly))

    def rate() -> float:
        first = saying(1)
        return tokens / (saying(tokens + 1) - first)

    return rate
