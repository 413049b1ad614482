"""LoRA adapters in a running engine, against PEFT in plain transformers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.engine import Engine, Request, Sampling
from fourfold.serving.engine.prompt.builder import PromptBuilder
from tests.serving.engine.conversations import Reference, ask, conversations, load


def save_adapter(checkpoint: Path, directory: Path, seed: int, **options: object) -> Path:
    """A LoRA adapter with weights large enough to change answers, saved by PEFT."""
    torch.manual_seed(seed)
    model = MiniGPTv2ForConditionalGeneration.from_pretrained(checkpoint)
    config = LoraConfig(
        r=4, lora_alpha=32, lora_dropout=0.3, target_modules=r".*language_model.*\.(q_proj|v_proj)", **options  # type: ignore[arg-type]
    )  # fmt: skip
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted.save_pretrained(str(directory))
    return directory


@pytest.fixture(scope="module")
def adapter(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(checkpoint, tmp_path_factory.mktemp("adapters") / "shouting", seed=1)


@pytest.fixture(scope="module")
def other_adapter(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(checkpoint, tmp_path_factory.mktemp("adapters") / "other", seed=2)


def test_adapters_are_chosen_by_name_within_one_batch(
    checkpoint: Path, reference: Reference, adapter: Path, other_adapter: Path
) -> None:
    messages = conversations()[0]
    expected = {"": reference.greedy(messages, 12)}
    for name, path in (("first", adapter), ("second", other_adapter)):
        merged = Reference(checkpoint)
        merged.model.load_adapter(str(path))
        expected[name] = merged.greedy(messages, 12)
    assert len({tuple(ids) for ids in expected.values()}) == 3
    with load(checkpoint) as fresh:
        fresh.load_adapter("first", adapter)
        fresh.load_adapter("second", other_adapter)
        assert [loaded.name for loaded in fresh.adapters] == ["first", "second"]
        names = ["", "first", "second", "first", "", "second"]
        for _ in range(2):  # the second time everything comes from the caches, which must not mix adapters
            requests = [Request(messages, Sampling(max_tokens=12), adapter=name) for name in names]
            for name, completion in zip(names, fresh.generate(requests), strict=True):
                assert completion.token_ids == expected[name]
        scores = [fresh.score(Request(messages, adapter=name), ["yes"]) for name in ("", "first", "")]
        assert scores[0] == pytest.approx(scores[2], abs=1e-5)
        assert scores[0] != pytest.approx(scores[1], abs=1e-3)


def test_adapters_never_share_what_was_read(checkpoint: Path, adapter: Path, other_adapter: Path) -> None:
    with load(checkpoint) as fresh:
        fresh.load_adapter("first", adapter)
        fresh.load_adapter("second", other_adapter)
        for name in ("", "first", "second"):
            asked = [Request(conversations()[0], Sampling(max_tokens=2), adapter=name) for _ in range(2)]
            first, second = (completion.cached_tokens for completion in fresh.generate(asked))
            assert first == 0 and second > 0
        assert fresh.stats.images_encoded == 1  # features of a picture are nobody's


def test_unloading_restores_the_answer_and_frees_the_name(checkpoint: Path, adapter: Path, other_adapter: Path) -> None:
    messages = conversations()[1]
    with load(checkpoint, adapter=adapter) as fresh:
        assert fresh.default_adapter == "shouting"
        base = fresh.generate([Request(messages, Sampling(max_tokens=8), adapter="")])[0].token_ids
        adapted = ask(fresh, messages, max_tokens=8).token_ids
        assert base != adapted
        fresh.unload_adapter("shouting")
        assert ask(fresh, messages, max_tokens=8).token_ids == base
        with pytest.raises(UserError, match="no adapter is called 'shouting'"):
            fresh.generate([Request(messages, adapter="shouting")])
        # Another one under the old name gets none of what was cached for the first.
        fresh.load_adapter("shouting", other_adapter)
        renamed = fresh.generate([Request(messages, Sampling(max_tokens=8), adapter="shouting")])[0].token_ids
        assert renamed not in (base, adapted)


def test_unloading_while_it_answers_lets_the_answer_end(
    fresh: Engine, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.load_adapter("a", adapter)
    request = Request(conversations()[0], Sampling(max_tokens=200), adapter="a")
    expected = fresh.generate([request])[0].token_ids
    running = fresh.submit(request)
    next(iter(running))
    fresh.unload_adapter("a")
    assert running.result().token_ids == expected
    assert fresh.adapters == []
    # One that asks before the unloading and comes after it, when the weights are gone, does not get the base model's.
    prompt = PromptBuilder.prompt

    def unload_meanwhile(self: PromptBuilder, *arguments: Any) -> Any:
        monkeypatch.undo()
        fresh.unload_adapter("a")
        ask(fresh, conversations()[2], max_tokens=1)
        return prompt(self, *arguments)

    fresh.load_adapter("a", adapter)
    monkeypatch.setattr(PromptBuilder, "prompt", unload_meanwhile)
    with pytest.raises(UserError, match="unloaded just now"):
        fresh.generate([request])


def test_adapters_that_do_not_fit_are_refused_and_leave_no_trace(engine: Engine, adapter: Path, tmp_path: Path) -> None:
    before = ask(engine, conversations()[0], max_tokens=8).token_ids
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        engine.load_adapter("x", tmp_path)
    with pytest.raises(UserError, match="name"):
        engine.load_adapter("", adapter)
    broken = tmp_path / "broken"
    shutil.copytree(adapter, broken)
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot load the adapter"):
        engine.load_adapter("x", broken)
    assert engine.adapters == []
    assert ask(engine, conversations()[0], max_tokens=8).token_ids == before


@pytest.mark.parametrize(
    "change",
    [
        {"r": "4"},
        {"r": 0},
        {"rank_pattern": [1]},
        {"alpha_pattern": 7},
        {"target_modules": None},
        {"target_modules": "*"},
        {"target_modules": 3},
        {"target_modules": "["},
        {"modules_to_save": [None]},
        {"modules_to_save": True},
        {"lora_alpha": [16]},
        {"lora_dropout": "much"},
        {"layers_to_transform": {"a": 1}},
        {"peft_type": ["LORA"]},
    ],
    ids=str,
)
def test_a_configuration_of_the_wrong_kind_is_refused_and_leaves_no_trace(
    engine: Engine, adapter: Path, other_adapter: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Also not in the adapters that are loaded: layers that stayed half made had every later one fail."""
    shutil.copytree(adapter, tmp_path / "odd")
    settings = tmp_path / "odd" / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **change}))
    engine.load_adapter("first", adapter)
    try:
        asked = Request(conversations()[0], Sampling(max_tokens=4), adapter="first")
        before = engine.generate([asked])[0].token_ids
        with pytest.raises(UserError) as raised:
            engine.load_adapter("odd", tmp_path / "odd")
        assert "\n" not in str(raised.value)
        engine.load_adapter("second", other_adapter)
        engine.unload_adapter("second")
        assert engine.generate([asked])[0].token_ids == before
    finally:
        engine.unload_adapter("first")
    assert engine.adapters == []
