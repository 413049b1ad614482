"""Other people's trainers on a checkpoint of fourfold."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from peft import LoraConfig, PeftModel, get_peft_model
from questions import QUESTIONS, directory, images, messages
from test_loading import answer, encode, load, processor_of
from transformers import Trainer, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer
from trl import SFTConfig, SFTTrainer

LORA = LoraConfig(r=4, lora_alpha=8, target_modules=r".*language_model.*\.(q_proj|v_proj)", task_type="CAUSAL_LM")
SETTINGS = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "report_to": "none",
    "use_cpu": True,
    "logging_steps": 1,
    "save_strategy": "no",
}


@pytest.fixture
def model(tiny: Path) -> Any:
    return load(tiny)


@pytest.fixture(scope="module")
def processor(tiny: Path) -> Any:
    return processor_of(tiny)


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def test_peft(model: Any, processor: Any, tiny: Path, tmp_path: Path) -> None:
    """An adapter changes the answer, comes back from its files, and merged gives a checkpoint that stands alone."""
    inputs = encode(processor, messages("one image"))
    plain = answer(model, inputs)
    config = copy.deepcopy(LORA)
    config.init_lora_weights = False
    adapted = get_peft_model(model, config)
    taught = answer(adapted, inputs)
    assert taught != plain
    with adapted.disable_adapter():
        assert answer(adapted, inputs) == plain
    adapted.save_pretrained(tmp_path / "adapter")
    assert answer(PeftModel.from_pretrained(load(tiny), tmp_path / "adapter"), inputs) == taught
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    processor.save_pretrained(tmp_path / "merged")
    assert answer(load(tmp_path / "merged"), inputs) == taught


def test_what_fourfold_merged_is_what_peft_makes_of_it(processor: Any, tiny: Path) -> None:
    adapted = PeftModel.from_pretrained(load(tiny), directory("adapter"))
    merged = load(directory("merged"))
    for question in QUESTIONS:
        inputs = encode(processor, messages(question))
        with torch.inference_mode():
            torch.testing.assert_close(merged(**inputs).logits, adapted(**inputs).logits, rtol=1e-4, atol=1e-4)


def test_two_steps_of_transformers_trainer(model: Any, processor: Any, tmp_path: Path) -> None:
    def collate(rows: list[dict[str, Any]]) -> Any:
        batch = encode(processor, [row["messages"] for row in rows], processor_kwargs={"padding": True})
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return {**batch, "labels": labels.masked_fill(labels == processor.image_token_id, -100)}

    rows = [{"messages": messages(question)} for question in ("one image", "another image", "two images", "no image")]
    before = snapshot(model)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(tmp_path), remove_unused_columns=False, **SETTINGS),
        data_collator=collate,
        train_dataset=rows,  # type: ignore[arg-type]
        processing_class=processor,
    )
    trainer.train()
    after = changed(model, before)
    assert any("projector" in name for name in after) and any("language_model" in name for name in after)
    assert not any("vision_" in name for name in after)
    trainer.save_model(str(tmp_path / "trained"))
    inputs = encode(processor_of(tmp_path / "trained"), messages("one image"))
    assert answer(load(tmp_path / "trained"), inputs) == answer(model.eval(), inputs)


def test_two_steps_of_trl(model: Any, processor: Any, tmp_path: Path) -> None:
    """TRL's own collator for images, with LoRA."""
    rows: dict[str, list[Any]] = {"messages": [], "images": []}
    for question in ("one image", "another image", "two images", "one image"):
        numbers, text = QUESTIONS[question]
        content = [{"type": "image", "text": None} for _ in numbers] + [{"type": "text", "text": text}]
        said = [{"type": "text", "text": "the car is red"}]
        rows["messages"].append([{"role": "user", "content": content}, {"role": "assistant", "content": said}])
        rows["images"].append(images(numbers))
    part = {"type": Value("string"), "text": Value("string")}
    features = Features(
        {"messages": List({"role": Value("string"), "content": List(part)}), "images": List(Image())}  # type: ignore[arg-type]
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(output_dir=str(tmp_path), max_length=None, assistant_only_loss=False, **SETTINGS),
        train_dataset=Dataset.from_dict(rows, features=features),
        processing_class=processor,
        peft_config=LORA,
    )
    before = snapshot(trainer.model)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and all(loss > 0 for loss in losses)
    after = changed(trainer.model, before)
    assert after and all(".lora_" in name for name in after)
    trainer.save_model(str(tmp_path / "adapter"))
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == LORA.r


def test_gradient_checkpointing_of_the_language_model(model: Any, processor: Any) -> None:
    """Its layers run twice, and the gradients are what they were; the frozen tower takes no part."""
    inputs = encode(processor, messages("one image"))
    inputs["labels"] = inputs["input_ids"]
    model.train()

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(**inputs, use_cache=False).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    model.gradient_checkpointing_enable()
    runs: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.register_forward_pre_hook(lambda *_, name=name: runs.update({name: runs.get(name, 0) + 1}))
    torch.testing.assert_close(gradients(), plain)
    assert plain and not any("vision_" in name for name in plain)
    assert {count for name, count in runs.items() if "language_model" in name} == {2}
    assert {count for name, count in runs.items() if "vision_tower" in name} == {1}


def test_a_tower_that_somebody_unfreezes_learns(model: Any, processor: Any) -> None:
    model.model.vision_tower.requires_grad_(True)
    inputs = encode(processor, messages("one image"))
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    weight = model.model.vision_tower.encoder.layers[0].mlp.fc1.weight
    assert weight.grad is not None and bool(weight.grad.abs().sum() > 0)
