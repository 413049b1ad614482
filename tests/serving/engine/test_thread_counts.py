"""Results are the same to the last bit on any number of threads, at the widths of the default model.

At those widths onnxruntime shares every product out; tiny ones it leaves to one thread.
"""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaModel

from fourfold.serving.engine.kv_cache import KVCache, StepInput
from fourfold.serving.engine.onnx_backend.decoder import OnnxDecoder
from fourfold.serving.engine.onnx_backend.decoder_graph import WeightFormat
from fourfold.serving.engine.onnx_backend.vision import OnnxVisionTower
from fourfold.serving.engine.onnx_backend.vision_graph import TowerFormat
from tests.serving.engine.conversations import wait_for

CONTEXT = 1024
CONFIG = LlamaConfig(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=2,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=4096,
    max_position_embeddings=CONTEXT,
)


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    model = LlamaModel(CONFIG)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def decoder(tensors: dict[str, np.ndarray], weights: WeightFormat, now: Callable[[], int]) -> OnnxDecoder:
    return OnnxDecoder(tensors, tensors["embed_tokens.weight"], CONFIG, weights, context=CONTEXT, now=now)


def embeds(tokens: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((tokens, CONFIG.hidden_size)).astype(np.float32)


def played(decoder: OnnxDecoder) -> list[np.ndarray]:
    """Logits of prompts of several lengths, longer than a block of attention too, then of answers in company."""
    kv_cache, found = KVCache(CONFIG, 2**28, CONTEXT), []
    for row, tokens in enumerate((2, 37, 300, 600)):
        assert kv_cache.admit(CONTEXT)
        found.append(decoder.step(kv_cache, [StepInput(row, embeds(tokens, row))]).copy())
    for token in range(4):
        found.append(decoder.step(kv_cache, [StepInput(row, token=10 * token + row) for row in range(4)]).copy())
        found.append(decoder.step(kv_cache, [StepInput(3, token=7 * token)]).copy())
    return [*found, *(kv_cache.read(row) for row in range(4))]


def check_equal(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("weights", ["int8", "float32"])
def test_the_decoders_logits_keys_and_values(tensors: dict[str, np.ndarray], weights: WeightFormat) -> None:
    alone = played(decoder(tensors, weights, lambda: 1))
    for threads in (2, 3, 16):
        check_equal(played(decoder(tensors, weights, lambda threads=threads: threads)), alone)


@pytest.mark.parametrize("weights", ["int8", "float32"])
def test_a_number_that_changes_between_steps(tensors: dict[str, np.ndarray], weights: WeightFormat) -> None:
    numbers = [2]
    changing = decoder(tensors, weights, lambda: numbers[0])
    before = changing._sessions.session()
    numbers[0] = 1
    wait_for(lambda: changing._sessions.session() is not before)
    turn = itertools.cycle([1, 2, 2])
    changing._sessions._now = lambda: next(turn)
    check_equal(played(changing), played(decoder(tensors, weights, lambda: 1)))


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_towers_features(weights: TowerFormat) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    config = CLIPVisionConfig(**shape, num_hidden_layers=2, image_size=224, patch_size=16)
    tensors = {name: tensor.numpy() for name, tensor in CLIPVisionModel(config).state_dict().items()}
    pixels = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    alone, *others = (
        OnnxVisionTower(tensors, config.to_dict(), weights, now=lambda threads=threads: threads).encode(pixels)
        for threads in (1, 2, 3)
    )
    for features in others:
        np.testing.assert_array_equal(features, alone)
