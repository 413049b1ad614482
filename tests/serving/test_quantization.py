"""4-bit and 8-bit on a tiny checkpoint: what is quantised, and that it answers."""

from pathlib import Path

import bitsandbytes
import pytest
import torch

from fourfold.serving.engine.engine import Engine, Request, Sampling
from fourfold.serving.engine.quantization import Quantization
from tests.serving.conversations import Reference, ask, conversations
from tests.serving.test_engine_adapters import save_adapter

LINEAR = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_only_the_language_model_is_quantised_and_it_answers(
    tiny_checkpoint: Path, quantization: Quantization, tmp_path: Path
) -> None:
    with Engine.load(tiny_checkpoint, quantization=quantization, dtype="float32", device="cpu") as engine:
        model = engine._runner.model
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                expected = "language_model" in name
                assert isinstance(module, LINEAR[quantization]) == expected, name
        assert model.model.projector.weight.dtype == torch.float32
        completions = engine.generate(
            [Request(messages, Sampling(max_tokens=5, logprobs=0)) for messages in conversations()]
        )
        # Rounding moves the log-probabilities of a random model a little, not a lot.
        reference = Reference(tiny_checkpoint)
        for messages, completion in zip(conversations(), completions, strict=True):
            assert completion.logprobs is not None
            expected_logprobs = reference.logprobs(messages, completion.token_ids)
            for step, entry in enumerate(completion.logprobs):
                assert entry.logprob == pytest.approx(float(expected_logprobs[step, entry.token_id]), abs=0.3)
        # LoRAManager go on top of quantised weights, and off again.
        before = ask(engine, conversations()[0], max_tokens=6).token_ids
        engine.load_adapter("loud", save_adapter(tiny_checkpoint, tmp_path / "loud", seed=3))
        loud = engine.generate([Request(conversations()[0], Sampling(max_tokens=6), adapter="loud")])[0]
        assert loud.token_ids != before
        engine.unload_adapter("loud")
        assert ask(engine, conversations()[0], max_tokens=6).token_ids == before


def test_four_bit_weights_take_less_room(tiny_checkpoint: Path) -> None:
    sizes = {}
    for quantization in (None, "4bit"):
        with Engine.load(tiny_checkpoint, quantization=quantization, dtype="float32", device="cpu") as engine:  # type: ignore[arg-type]
            sizes[quantization] = engine.weight_bytes
    with Engine.load(tiny_checkpoint, dtype="float32", device="cpu") as engine:
        layers = engine._runner.model.model.language_model.layers
        linear = sum(module.weight.nbytes for module in layers.modules() if isinstance(module, torch.nn.Linear))
    assert sizes["4bit"] < sizes[None] - 0.8 * linear
