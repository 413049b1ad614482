"""These tests run where fourfold is not installed (`make test-standalone`), on what `write_reference.py` left."""

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("fourfold") is not None:
    collect_ignore_glob = ["test_*.py"]

REFERENCE = Path(os.environ.get("FOURFOLD_STANDALONE", Path(__file__).parents[2] / "out" / "standalone"))
SKIPS = {
    r"test requires (multiple )?accelerators?$": "there is no GPU",
    r"test requires (Flash Attention( [34])?|MPS|deepspeed|the kernels library)$": "there is no GPU for it",
    r"test is slow$": "torch.compile in training, which test_training.py does in a smaller way",
    r"Model is not an encoder-decoder": "it is a decoder",
    r"does not support grouped_mm|has no sparse experts|no `output_router_logits`": "it is no mixture of experts",
    r"no _keep_in_fp32_modules": "it names none: `VisionLayerNorm` computes in float32 by itself",
    r"Model does not have position embeddings": "the language model's are rotary, the tower's belong to its image size",
    r"no standardized RoPE module|partial rope supported|has no axial RoPE": "the rotary embedding is LLaMA's own",
    r"Only PrefixChange conversions found": "weights are stored under the names that they have in the model",
    r"MiniGPTv2Model does not support SDPA": "for models of one part; the test of composite ones runs",
    r"does not support sliding window mask": "LLaMA has none",
    r"looks at is of the frozen tower": "which is never in training; test_training.py looks at the language model's",
    r"(video_processor|feature_extractor|audio_processor) attribute not present": "it takes images and text",
    r"doesn't accept videos|has no video processor|test requires (librosa|Torchcodec)": "it takes images and text",
    r"Chat template does not support tools": "the model was not taught any",
    r"tests/generation is not in the archive": "test_generation.py stands in its place",
}
"""Why a test of transformers' may be skipped here; any other skip is a failure."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = (yield).get_result()
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not any(re.search(known, reason) for known in SKIPS):
            report.outcome, report.longrepr = "failed", f"skipped for a reason that conftest.py does not know: {reason}"


@pytest.fixture(scope="session")
def tiny() -> Path:
    """A tiny checkpoint, as fourfold writes it."""
    return REFERENCE / "tiny"
