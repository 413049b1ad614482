"""Adapters that would spoil answers, theirs or others', are refused in one sentence; a plain LoRA is taken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file

from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.engine import Engine, Request, Sampling
from tests.serving.engine.conversations import Reference, ask, conversations, load
from tests.serving.engine.test_adapters import save_adapter

Q = "model.language_model.layers.0.self_attn.q_proj"
IN_FILE = "base_model.model."
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def adapter(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(checkpoint, tmp_path_factory.mktemp("adapters") / "plain", seed=1)


@pytest.fixture(scope="module")
def own(checkpoint: Path) -> Any:
    """An engine for this file alone, since some of it would show in other answers if it were not refused."""
    with load(checkpoint) as engine:
        yield engine


def changed(adapter: Path, directory: Path, config: dict[str, Any], change: Callable[[Weights], object]) -> Path:
    directory.mkdir()
    read = json.loads((adapter / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps({**read, **config}))
    weights = load_file(adapter / "adapter_model.safetensors")
    change(weights)
    save_file(weights, directory / "adapter_model.safetensors")
    return directory


def put(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Weights], object]:
    key = f"{IN_FILE}{Q}.{name}"
    return lambda weights: weights.update({key: make(weights[key].clone())})


def fill(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def filled(tensor: torch.Tensor) -> torch.Tensor:
        tensor[0, 0] = value
        return tensor

    return filled


def same(weights: Weights) -> None:
    pass


def add(name: str, *shape: int) -> Callable[[Weights], object]:
    return lambda weights: weights.update({f"{IN_FILE}{name}": torch.ones(shape)})


TOWER = "model.vision_tower.encoder.layers.0.self_attn.q_proj"
FAULTS: dict[str, tuple[dict[str, Any], Callable[[Weights], object], str]] = {
    "NaN": ({}, put("lora_B.weight", fill(float("nan"))), rf"{Q}\.lora_B\.weight holds NaN"),
    "infinity": ({}, put("lora_A.weight", fill(float("inf"))), rf"{Q}\.lora_A\.weight holds NaN or infinity"),
    "huge": ({}, put("lora_B.weight", fill(1e30)), rf"{Q}\.lora_B\.weight is far too strong"),
    "huge alpha": ({"lora_alpha": 1e30}, same, "far too strong"),
    "alpha is NaN": ({"lora_alpha": float("nan")}, same, "far too strong"),
    "whole numbers": ({}, put("lora_A.weight", lambda t: t.to(torch.int32)), r"lora_A\.weight is of int32"),
    "another width": (
        {},
        put("lora_A.weight", lambda t: torch.ones(4, 48)),
        r"is 4 × 48 in its file .* 4 × 64: .*model",
    ),
    "another rank": ({"r": 8}, same, r"4 × 64 in its file .* 8 × 64: .*says rank 8, its file has 4"),
    "a rank beyond all": ({"r": 10**9}, same, r"says rank 1000000000, its file has 4"),
    "a rank in words": ({"r": "4"}, same, r"rank|cannot load"),
    "fewer layers": (
        {"target_modules": ["k_proj"]},
        same,
        r"it lacks model\..*k_proj.* and \d+ more: .*target_modules",
    ),
    "more layers": ({"target_modules": ".*language_model.*q_proj"}, same, r"nothing takes: .*v_proj.* and \d+ more"),
    "no such layer": ({"target_modules": ["nothing"]}, same, "nothing"),
    "vision tower": ({}, add(f"{TOWER}.lora_A.weight", 4, 64), r"changes the vision tower \(.*q_proj.*language_model"),
    "whole layers": ({"modules_to_save": ["lm_head"]}, same, r"modules_to_save: lm_head"),
    "whole layers in the file": ({}, add("lm_head.weight", 500, 64), r"holds lm_head\.weight"),
    "biases": ({"bias": "all"}, same, r'bias: "all"'),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, same, r"init_lora_weights: pissa_niter_4"),
    "layers twice": ({"layer_replication": [[0, 1], [0, 1]]}, same, "layer_replication"),
    "tokens": ({"trainable_token_indices": [1]}, same, "trainable_token_indices"),
    "another kind": ({"peft_type": "IA3"}, same, "IA3"),
    "no weights": ({}, lambda weights: weights.clear(), "no weights"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_refused_in_one_sentence_that_says_why(own: Engine, adapter: Path, tmp_path: Path, fault: str) -> None:
    config, change, message = FAULTS[fault]
    with pytest.raises(UserError, match=message) as refused:
        own.load_adapter("x", changed(adapter, tmp_path / "changed", config, change))
    assert "\n" not in str(refused.value) and not str(refused.value).rstrip().endswith(":")
    assert own.adapters == []


def test_nothing_of_what_was_refused_is_left(own: Engine, engine: Engine) -> None:
    """Comes behind the refusals of this file: its engine answers as one that never saw them."""
    for messages in conversations()[:2]:
        assert ask(own, messages, max_tokens=8).token_ids == ask(engine, messages, max_tokens=8).token_ids
    picture = Image.new("RGB", (40, 30), "purple")
    assert (own.vision_features(picture) == engine.vision_features(picture)).all()


TAKEN: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "ranks by layer": {"rank_pattern": {".*layers.0.*q_proj": 2}, "alpha_pattern": {".*layers.0.*q_proj": 4}},
    "projector and head": {"target_modules": ["projector", "lm_head"]},
    "gaussian": {"init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("kind", TAKEN)
def test_kinds_that_are_taken_answer_as_in_peft(own: Engine, checkpoint: Path, tmp_path: Path, kind: str) -> None:
    torch.manual_seed(3)
    options = {"r": 4, "lora_alpha": 8, "target_modules": r".*language_model.*\.(q_proj|v_proj)", **TAKEN[kind]}
    adapted = get_peft_model(MiniGPTv2ForConditionalGeneration.from_pretrained(checkpoint), LoraConfig(**options))
    for name, parameter in adapted.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(str(tmp_path / "taken"), save_embedding_layers=False)
    reference = Reference(checkpoint)
    reference.model = PeftModel.from_pretrained(reference.model, str(tmp_path / "taken")).eval()
    messages = conversations()[0]
    own.load_adapter("taken", tmp_path / "taken")
    try:
        request = Request(messages, Sampling(max_tokens=3, logprobs=0), adapter="taken")
        (answer,) = own.generate([request])
    finally:
        own.unload_adapter("taken")
    reference.check_logprobs(messages, answer, 2e-4)
    assert answer.token_ids != ask(own, messages, max_tokens=3).token_ids or kind == "gaussian"
