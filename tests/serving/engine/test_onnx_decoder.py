"""The decoder in onnxruntime against the language model in torch: the same steps through both."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fourfold.serving.engine.kv_cache import KVCache, StepInput
from fourfold.serving.engine.model_runner import ModelRunner
from fourfold.serving.engine.onnx_decoder import OnnxDecoder
from fourfold.serving.engine.onnx_graph import BLOCK, WeightFormat, can_be_built, quantise
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


class Pair:
    """A runner on torch and one on onnxruntime that are given the same."""

    def __init__(self, weights: WeightFormat) -> None:
        # The first takes its model's attention over; both have the same weights.
        self.runners = [ModelRunner(lively_model(), CONTEXT, 2**26, 2**20, decoder) for decoder in (None, weights)]

    def admit(self, tokens: int) -> None:
        assert all(runner.kv_cache.admit(tokens) for runner in self.runners)

    def remove(self, row: int) -> None:
        for runner in self.runners:
            runner.kv_cache.remove(row)

    def step(self, *inputs: StepInput) -> list[torch.Tensor]:
        """Logits of torch and of onnxruntime."""
        with torch.inference_mode():
            logits = [runner.step(inputs).clone() for runner in self.runners]
        assert self.runners[0].kv_cache.lengths == self.runners[1].kv_cache.lengths
        return logits

    def check(self, *inputs: StepInput) -> None:
        torch.testing.assert_close(*self.step(*inputs), rtol=1e-4, atol=1e-5)

    def check_rows(self) -> None:
        """What is kept of every row is the same, and nothing stands beyond it."""
        with torch.inference_mode():
            for row in range(len(self.runners[0].kv_cache.lengths)):
                kept = [runner.kv_cache.read(row) for runner in self.runners]
                torch.testing.assert_close(*kept, rtol=1e-4, atol=1e-4)


def prompt(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


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
    with torch.inference_mode():
        stored = [runner.kv_cache.read(0) for runner in pair.runners]
        pair.admit(100)
        for runner, kept in zip(pair.runners, stored, strict=True):
            runner.kv_cache.write(1, kept, 15)
    pair.check(StepInput(0, token=1), StepInput(1, prompt(4, 7)))
    pair.check(StepInput(0, token=1), StepInput(1, token=2))


def test_torch_and_onnxruntime_take_over_from_each_other() -> None:
    """As for rows under an adapter next to rows without: both keep keys and values alike."""
    runner, alone = ModelRunner(lively_model(), CONTEXT, 2**26, 2**20, "float32"), Pair("float32")
    alone.admit(100)
    assert runner.kv_cache.admit(100)
    with torch.inference_mode():
        for number, entry in enumerate(
            [StepInput(0, prompt(9)), StepInput(0, token=1), StepInput(0, token=2), StepInput(0, prompt(5))]
        ):
            expected = alone.step(entry)[0]
            found = runner.step([entry], lora_id=number % 2)  # any adapter but 0 is torch's
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


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
        assert 0 < (exact - rounded).abs().max() < 0.1 * exact.abs().max()
    together = pair.step(*(StepInput(row, token=row) for row in range(3)))
    assert 0 < (together[0] - together[1]).abs().max() < 0.1 * together[0].abs().max()
    alone.admit(100)
    alone.step(StepInput(0, prompt(3, 3)))
    torch.testing.assert_close(alone.step(StepInput(0, token=1))[1][0], together[1][1], rtol=1e-3, atol=1e-3)


def test_int8_reads_a_prompt_as_it_would_say_it() -> None:
    """What an answer left in the cache is what reading that answer would put there."""
    said, read = Pair("int8").runners[1], Pair("int8").runners[1]
    tokens = [5, 9, 301, 2]
    with torch.inference_mode():
        for runner in (said, read):
            assert runner.kv_cache.admit(50)
            runner.step([StepInput(0, prompt(6))])
        for token in tokens:
            last = said.step([StepInput(0, token=token)]).clone()
        embeds = read.model.model.language_model.embed_tokens(torch.tensor(tokens))
        torch.testing.assert_close(read.step([StepInput(0, embeds)]), last, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(said.kv_cache.read(0), read.kv_cache.read(0), rtol=1e-3, atol=1e-3)


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
    kv_cache = KVCache(config, torch.float32, torch.device("cpu"), 2**24, 256)
    ids = torch.randint(0, 300, (1, 90))
    with torch.inference_mode():
        expected = model(ids).logits[0]
        decoder = OnnxDecoder(model.model, model.lm_head.weight, "float32", kv_cache, 256, 1)
        assert kv_cache.admit(256)
        first = decoder.step([StepInput(0, model.model.embed_tokens(ids[0, :80]), keep=80)])
        torch.testing.assert_close(first, expected[:80], rtol=1e-3, atol=1e-4)
        for place in range(80, 90):
            found = decoder.step([StepInput(0, token=int(ids[0, place]))])
            torch.testing.assert_close(found[0], expected[place], rtol=1e-3, atol=1e-4)


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
    weight = torch.randn(5, 3 * BLOCK, generator=torch.Generator().manual_seed(0))
    weight[2, :BLOCK] = 0
    quantised, scales = quantise(weight)
    assert quantised.shape == (5, 3, BLOCK)
    back = (quantised.float() - 128) * scales[..., None]
    assert bool(((back - weight.view(5, 3, BLOCK)).abs() <= scales[..., None] * 0.501).all())
    assert int(quantised.min()) >= 1
    assert int(quantised.max()) == 255
