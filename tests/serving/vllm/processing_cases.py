"""vLLM's own test of multimodal processing, on our class. Collected by `test_processing.py` in vLLM's tree of tests."""

import os

import pytest

# vLLM's package `tests`, not ours: this file runs with vLLM's source tree first on the path.
from tests.models import registry
from tests.models.multimodal.processing.test_common import _test_processing_correctness

ARCHITECTURE = "MiniGPTv2ForConditionalGeneration"


@pytest.mark.parametrize("hit_rate", [0.3, 0.5, 1.0])
def test_processing_correctness(hit_rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from fourfold.serving.vllm.plugin import register

    register()
    ours = registry._HfExamplesInfo(os.environ["FOURFOLD_CHECKPOINT"], is_available_online=True)
    known = {**registry.HF_EXAMPLE_MODELS.hf_models, ARCHITECTURE: ours}
    monkeypatch.setattr(registry.HF_EXAMPLE_MODELS, "hf_models", known)
    _test_processing_correctness(ARCHITECTURE, hit_rate=hit_rate, num_batches=32, simplify_rate=1.0)
