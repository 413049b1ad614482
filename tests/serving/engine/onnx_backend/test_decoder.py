"""The decoder in onnxruntime against the language model in torch: the same steps through both."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fourfold.assistant.checkpoints.mapped_weights import under
from fourfold.serving.engine.kv_cache import KVCache, StepInput
from fourfold.serving.engine.model_runner import ModelRunner
from fourfold.serving.engine.onnx_backend.decoder import OnnxDecoder
from fourfold.serving.engine.onnx_backend.decoder_graph import BLOCK, WeightFormat, can_be_built, quantise
from fourfold.serving.engine.onnx_backend.model import OnnxModel
from fourfold.serving.engine.torch_backend.model import TorchModel
from tests.tiny import tiny_config, tiny_model

CONTEXT = 1024
WIDTH = 64


def lively_model() -> Any:
    """The tiny model, with weights large enough for every part of it to matter."""
    model = tiny_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed" not in name and "lm_head" not in name:
                parameter.mul_(8)
    return model


def runner(decoder: WeightFormat | None) -> ModelRunner:
    """On onnxruntime, or on torch."""
    in_torch = TorchModel(lively_model())
    config = in_torch.model.config
    base: OnnxModel | TorchModel = in_torch
    if decoder is not None:
        base = OnnxModel(in_torch.tensors(), config, decoder, None, context=CONTEXT)
    return ModelRunner(config, base, lambda: in_torch, context=CONTEXT, cache_bytes=2**26, feature_bytes=2**20)


class Pair:
    """A runner on torch and one on onnxruntime that are given the same."""

    def __init__(self, weights: WeightFormat) -> None:
        self.runners = [runner(None), runner(weights)]

    def admit(self, tokens: int) -> None:
        assert all(runner.kv_cache.admit(tokens) for runner in self.runners)

    def remove(self, row: int) -> None:
        for runner in self.runners:
            runner.kv_cache.remove(row)

    def step(self, *inputs: StepInput) -> list[np.ndarray]:
        """Logits of torch and of onnxruntime."""
        logits = [runner.step(inputs).copy() for runner in self.runners]
        assert self.runners[0].kv_cache.lengths == self.runners[1].kv_cache.lengths
        return logits

    def check(self, *inputs: StepInput) -> None:
        np.testing.assert_allclose(*self.step(*inputs), rtol=1e-4, atol=1e-5)

    def check_rows(self) -> None:
        """What is kept of every row is the same, and nothing stands beyond it."""
        for row in range(len(self.runners[0].kv_cache.lengths)):
            kept = [runner.kv_cache.read(row) for runner in self.runners]
            np.testing.assert_allclose(*kept, rtol=1e-4, atol=1e-4)


def prompt(tokens: int, seed: int = 0) -> np.ndarray:
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed)).numpy()


def test_one_row_reads_and_goes_on() -> None:
    pair = Pair("float32")
    pair.admit(100)
    pair.check(StepInput(0, prompt(7)))
    for token in (5, 9, 5, 2, 400):
        pair.check(StepInput(0, token=token))
    pair.check_rows()


def test_a_prompt_of_one_token_and_a_chunk_of_one() -> None:
    pair = Pair("float32")
    pair.admit(50)
    pair.admit(50)
    pair.check(StepInput(0, prompt(1)), StepInput(1, prompt(1, 1)))
    # One of them goes on with a token, the other reads one more of its prompt and wants nothing yet.
    pair.check(StepInput(0, token=3), StepInput(1, prompt(1, 2), keep=0))
    pair.check(StepInput(0, prompt(1, 3), keep=0), StepInput(1, prompt(1, 4), keep=0))
    pair.check_rows()


def test_rows_of_different_lengths_share_a_step() -> None:
    pair = Pair("float32")
    for length in (12, 3, 40, 7):
        pair.admit(100)
        pair.check(StepInput(len(pair.runners[0].kv_cache.lengths) - 1, prompt(length, length)))
    for token in (4, 8, 15):
        pair.check(*(StepInput(row, token=token + row) for row in range(4)))
    pair.check_rows()


def test_some_rows_decode_while_others_read() -> None:
    pair = Pair("float32")
    for length in (12, 3):
        pair.admit(100)
        pair.check(StepInput(len(pair.runners[0].kv_cache.lengths) - 1, prompt(length, length)))
    pair.admit(100)
    pair.check(StepInput(0, token=4), StepInput(1, token=5), StepInput(2, prompt(9), keep=0))
    # Rows 0 and 2 are not neighbours, and row 1 is given several tokens at once, of which three matter.
    pair.check(StepInput(0, token=4), StepInput(2, token=5), StepInput(1, prompt(6, 5), keep=3))
    pair.check(StepInput(0, token=4), StepInput(2, token=5))
    pair.check(*(StepInput(row, token=6) for row in range(3)))
    pair.check_rows()


def test_a_row_that_leaves_gives_its_place_to_the_last() -> None:
    pair = Pair("float32")
    for length in (12, 30, 5):
        pair.admit(100)
        pair.check(StepInput(len(pair.runners[0].kv_cache.lengths) - 1, prompt(length, length)))
    pair.check(*(StepInput(row, token=row) for row in range(3)))
    pair.remove(0)
    pair.check(*(StepInput(row, token=row) for row in range(2)))
    pair.remove(1)
    pair.check(StepInput(0, token=1))
    pair.admit(40)  # in the place of one that has left
    pair.check(StepInput(0, token=1), StepInput(1, prompt(8)))
    pair.check(*(StepInput(row, token=row) for row in range(2)))
    pair.check_rows()


def test_the_cache_may_grow_between_two_steps() -> None:
    pair = Pair("float32")
    pair.admit(100)
    pair.check(StepInput(0, prompt(12)))
    pair.check(StepInput(0, token=1))
    pair.admit(700)  # more rows and more capacity: everything lies elsewhere now
    pair.check(StepInput(0, token=2))
    pair.check(StepInput(0, token=3), StepInput(1, prompt(300)))
    pair.check(StepInput(0, token=4), StepInput(1, prompt(300, 1)))
    pair.check(StepInput(0, token=5), StepInput(1, token=6))
    pair.check_rows()


def test_a_row_may_begin_with_what_another_left() -> None:
    pair = Pair("float32")
    pair.admit(100)
    pair.check(StepInput(0, prompt(20)))
    stored = [runner.kv_cache.read(0) for runner in pair.runners]
    pair.admit(100)
    for one, kept in zip(pair.runners, stored, strict=True):
        one.kv_cache.write(1, kept, 15)
    pair.check(StepInput(0, token=1), StepInput(1, prompt(4, 7)))
    pair.check(StepInput(0, token=1), StepInput(1, token=2))


def test_torch_and_onnxruntime_take_over_from_each_other() -> None:
    """As for rows under an adapter next to rows without: both keep keys and values alike."""
    both, alone = runner("float32"), Pair("float32")
    alone.admit(100)
    assert both.kv_cache.admit(100)
    for number, entry in enumerate(
        [StepInput(0, prompt(9)), StepInput(0, token=1), StepInput(0, token=2), StepInput(0, prompt(5))]
    ):
        expected = alone.step(entry)[0]
        found = both.step([entry], lora_id=number % 2)  # any adapter but 0 is torch's
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_last_position_of_the_context_is_like_any_other() -> None:
    pair = Pair("float32")
    pair.admit(CONTEXT)
    pair.check(StepInput(0, prompt(500), keep=0))
    pair.check(StepInput(0, prompt(CONTEXT - 502, 1)))
    pair.check(StepInput(0, token=1))
    pair.check(StepInput(0, token=2))
    assert pair.runners[0].kv_cache.lengths == [CONTEXT]


def test_int8_is_close_and_the_same_alone_or_among_others() -> None:
    pair, alone = Pair("int8"), Pair("int8")
    for row, length in enumerate((12, 3, 40)):
        pair.admit(100)
        exact, rounded = pair.step(StepInput(row, prompt(length, length)))
        assert 0 < np.abs(exact - rounded).max() < 0.1 * np.abs(exact).max()
    together = pair.step(*(StepInput(row, token=row) for row in range(3)))
    assert 0 < np.abs(together[0] - together[1]).max() < 0.1 * np.abs(together[0]).max()
    alone.admit(100)
    alone.step(StepInput(0, prompt(3, 3)))
    np.testing.assert_allclose(alone.step(StepInput(0, token=1))[1][0], together[1][1], rtol=1e-3, atol=1e-3)


def test_int8_reads_a_prompt_as_it_would_say_it() -> None:
    """What an answer left in the cache is what reading that answer would put there."""
    said, read = runner("int8"), runner("int8")
    tokens = [5, 9, 301, 2]
    for one in (said, read):
        assert one.kv_cache.admit(50)
        one.step([StepInput(0, prompt(6))])
    for token in tokens:
        last = said.step([StepInput(0, token=token)]).copy()
    embeds = read.base.embed_tokens(tokens)
    np.testing.assert_allclose(read.step([StepInput(0, embeds)]), last, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(said.kv_cache.read(0), read.kv_cache.read(0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"num_key_value_heads": 4, "head_dim": 16},  # a head of keys and values for every head
        {"num_key_value_heads": 1, "head_dim": 64},
        {"rms_norm_eps": 1e-2},
        {"tie_word_embeddings": False},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0}},
    ],
)
def test_other_plain_llamas(options: dict[str, Any]) -> None:
    sizes = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, max_position_embeddings=256, **options)
    assert can_be_built(config)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    kv_cache = KVCache(config, 2**24, 256)
    ids = torch.randint(0, 300, (1, 90))
    with torch.inference_mode():
        expected = model(ids).logits[0].numpy()
        embeds = model.model.embed_tokens(ids[0, :80]).numpy()
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    decoder = OnnxDecoder(under("model", tensors), tensors["lm_head.weight"], config, "float32", context=256)
    assert kv_cache.admit(256)
    first = decoder.step(kv_cache, [StepInput(0, embeds, keep=80)])
    np.testing.assert_allclose(first, expected[:80], rtol=1e-3, atol=1e-4)
    for place in range(80, 90):
        found = decoder.step(kv_cache, [StepInput(0, token=int(ids[0, place]))])
        np.testing.assert_allclose(found[0], expected[place], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mistral"},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"head_dim": 40},
        {"intermediate_size": 100},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ],
)
def test_what_is_not_a_plain_llama_is_left_to_torch(change: dict[str, Any]) -> None:
    config = tiny_config().text_config
    assert can_be_built(config)
    for name, value in change.items():
        setattr(config, name, value)
    assert not can_be_built(config)


def test_int8_weights_are_within_half_a_step() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 3 * BLOCK), np.float32)
    weight[2, :BLOCK] = 0
    quantised, scales = quantise(weight)
    assert quantised.shape == (5, 3, BLOCK)
    back = (quantised.astype(np.float32) - 128) * scales[..., None]
    assert (np.abs(back - weight.reshape(5, 3, BLOCK)) <= scales[..., None] * 0.501).all()
    assert int(quantised.min()) >= 1
    assert int(quantised.max()) == 255


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_prompt_is_read_alike_in_one_piece_and_in_two(weights: WeightFormat) -> None:
    """To the last bit, whatever is left over of the tiles that onnxruntime would attend in."""
    one, other = runner(weights), runner(weights)
    embeds = np.random.default_rng(0).standard_normal((258, WIDTH), np.float32)
    assert one.kv_cache.admit(300) and other.kv_cache.admit(300)
    for length in (33, 64, 65, 66, 129, 193, 257, 258):
        for read in (one, other):
            read.kv_cache.truncate(0, 0)
        whole = one.step([StepInput(0, embeds[:length])]).copy()
        other.step([StepInput(0, embeds[: length - 2], keep=0)])
        assert np.array_equal(other.step([StepInput(0, embeds[length - 2 : length])]), whole)
        assert np.array_equal(other.kv_cache.read(0), one.kv_cache.read(0))
