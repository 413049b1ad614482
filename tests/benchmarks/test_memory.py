"""The documented memory table is the computed one, and a tiny model's bytes are counted right."""

from pathlib import Path

import torch

from benchmarks.memory import NF4_BYTES, layout, parts, table
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration

PAGE = Path(__file__).parents[2] / "docs" / "original-checkpoint.md"


def test_documented_table() -> None:
    documented = (
        PAGE.read_text(encoding="utf-8").partition("<!-- table: benchmarks.memory -->")[2].partition("<!-- end -->")[0]
    )
    assert documented.strip() == table()


def test_sums_are_the_model_s() -> None:
    with torch.device("meta"):
        model = MiniGPTv2ForConditionalGeneration(layout("tiny"))
    *several, whole = parts(model)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert whole.parameters == count and whole.fp16 == 2 * count
    linear = next(part for part in several if part.name.startswith("linear"))
    # Two layers of 4 * 128² for attention and 3 * 128 * 256 for the MLP.
    assert linear.parameters == 2 * (4 * 128**2 + 3 * 128 * 256)
    assert linear.int8 == linear.parameters + 4 * 2 * (4 * 128 + 2 * 256 + 128)


def test_nf4_bytes_are_those_of_bitsandbytes() -> None:
    import bitsandbytes as bnb

    weight = bnb.nn.Params4bit(torch.randn(512, 1024), quant_type="nf4", compress_statistics=True).to("cpu")
    state = weight.quant_state
    found = weight.numel() + state.absmax.numel() + 4 * state.state2.absmax.numel()
    assert found == NF4_BYTES * 512 * 1024
