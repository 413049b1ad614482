from pathlib import Path

import pytest
import torch

from fourfold.assistant.model.bf16 import has_fast_bf16
from fourfold.prompts.errors import UserError
from fourfold.serving.engine import dtype
from fourfold.serving.engine.dtype import NumberFormat, choose_format, free_cores, int8_is_good
from fourfold.serving.engine.engine import Engine
from tests.serving.conversations import Reference, ask, conversations, save_lively_checkpoint
from tests.tiny import tiny_config

CPU = torch.device("cpu")


@pytest.mark.parametrize("good", [True, False])
def test_int8_is_taken_where_the_processor_is_good_at_it(good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtype, "int8_is_good", lambda: good)
    chosen = choose_format("auto", tiny_config(), CPU)
    assert chosen == NumberFormat(torch.float32, "int8" if good else "float32", good and has_fast_bf16(CPU))


def test_a_named_format_is_taken_as_it_is() -> None:
    assert choose_format("int8", tiny_config(), CPU) == NumberFormat(torch.float32, "int8", has_fast_bf16(CPU))
    assert choose_format("float32", tiny_config(), CPU) == NumberFormat(torch.float32, "float32")
    assert choose_format("bfloat16", tiny_config(), CPU) == NumberFormat(torch.bfloat16)
    with pytest.raises(UserError, match="int8, float32, bfloat16, float16"):
        choose_format("float8", tiny_config(), CPU)  # type: ignore[arg-type]


def test_other_language_models_and_bitsandbytes_are_torchs() -> None:
    biased = tiny_config()
    biased.text_config.attention_bias = True
    assert choose_format("auto", biased, CPU) == NumberFormat(torch.float32)
    assert choose_format("auto", tiny_config(), CPU, "4bit") == NumberFormat(torch.float32)
    for config, quantization in ((biased, None), (tiny_config(), "8bit")):
        with pytest.raises(UserError, match="plain LLaMA"):
            choose_format("int8", config, CPU, quantization)  # type: ignore[arg-type]


def test_a_kernel_that_adds_up_wrongly_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = int8_is_good()
    assert answer == int8_is_good()
    # A graph with other weights stands for a kernel whose sums overflow.
    exact = dtype.product_graph
    monkeypatch.setattr(dtype, "product_graph", lambda weight: exact(weight * 0.9))
    int8_is_good.cache_clear()
    try:
        assert int8_is_good() is False
    finally:
        int8_is_good.cache_clear()


def test_int8_answers_about_as_float32_does(tmp_path: Path) -> None:
    checkpoint = save_lively_checkpoint(tmp_path / "checkpoint")
    reference = Reference(checkpoint)
    with Engine.load(checkpoint, dtype="int8", device="cpu") as engine:
        for messages in conversations():
            completion = ask(engine, messages, max_tokens=8, logprobs=0)
            assert completion.logprobs is not None
            expected = reference.logprobs(messages, completion.token_ids)
            for step, entry in enumerate(completion.logprobs):
                assert entry.logprob == pytest.approx(float(expected[step, entry.token_id]), abs=0.2)
            assert ask(engine, messages, max_tokens=8).token_ids == completion.token_ids


def test_threads_leave_busy_cores_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtype.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(dtype, "_running_elsewhere", lambda: 3)
    assert free_cores() <= 5
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(dtype, "_running_elsewhere", lambda: 0)
    assert free_cores() == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(dtype, "_running_elsewhere", lambda: 50)
    assert free_cores() == 1
