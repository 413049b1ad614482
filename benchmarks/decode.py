"""Tokens a second of one answer: ours in every number format, plain `generate` and llama.cpp, in turns."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import torch

from benchmarks.figures import Figure, in_turns, seconds
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
        contestants["generate, float32"] = _plain_rate(model, tokens)
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
