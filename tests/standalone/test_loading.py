"""Checkpoints of fourfold where fourfold is not: they load by transformers' own names and answer the same."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from questions import QUESTIONS, directory, every_checkpoint, expected, images, messages
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    pipeline,
)

MAX_TOKENS = 12
CODE = {"configuration_minigpt_v2.py", "modeling_minigpt_v2.py", "processing_minigpt_v2.py"}


def load(path: Path, **options: Any) -> Any:
    options = {"dtype": torch.float32} | options
    return AutoModelForImageTextToText.from_pretrained(path, trust_remote_code=True, **options).eval()


def processor_of(path: Path) -> Any:
    return AutoProcessor.from_pretrained(path, trust_remote_code=True)


def encode(processor: Any, conversations: list[Any], **options: Any) -> dict[str, torch.Tensor]:
    return processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **options
    )


def answer(model: Any, inputs: Any) -> list[list[int]]:
    tokens = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
    return tokens[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module")
def model(tiny: Path) -> Any:
    return load(tiny)


@pytest.fixture(scope="module")
def processor(tiny: Path) -> Any:
    return processor_of(tiny)


def test_fourfold_is_not_here() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("fourfold")


@every_checkpoint
def test_same_prompts_logits_and_answers(name: str) -> None:
    path = directory(name)
    model, processor = load(path), processor_of(path)
    for question in QUESTIONS:
        inputs = encode(processor, messages(question))
        assert inputs["input_ids"][0].tolist() == expected(name, question, "prompt").tolist(), question
        with torch.inference_mode():
            logits = model(**inputs).logits[0, -1].numpy()
        np.testing.assert_allclose(logits, expected(name, question, "logits"), rtol=1e-4, atol=1e-4, err_msg=question)
        assert answer(model, inputs)[0] == expected(name, question, "answer").tolist(), question


@every_checkpoint
def test_a_directory_has_what_programs_look_for(name: str) -> None:
    path = directory(name)
    assert {file.name for file in path.glob("*.py")} == CODE
    for file in ("chat_template.jinja", "generation_config.json", "processor_config.json", "tokenizer.json"):
        assert (path / file).is_file(), file
    config = json.loads((path / "config.json").read_text())
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor"}
    for code in CODE:
        assert "Apache-2.0" in (path / code).read_text().splitlines()[1]


def test_every_auto_class(tiny: Path) -> None:
    config = AutoConfig.from_pretrained(tiny, trust_remote_code=True)
    assert (config.model_type, config.image_seq_length) == ("minigpt_v2", 4)
    assert type(AutoModel.from_pretrained(tiny, trust_remote_code=True)).__name__ == "MiniGPTv2Model"
    assert AutoTokenizer.from_pretrained(tiny, trust_remote_code=True).eos_token == "<|im_end|>"
    assert AutoImageProcessor.from_pretrained(tiny, trust_remote_code=True).size == {"height": 64, "width": 64}
    assert sum(p.numel() for p in AutoModelForImageTextToText.from_config(config, trust_remote_code=True).parameters())


def test_a_batch_equals_its_rows(model: Any, processor: Any) -> None:
    """Without images, with one and with two, padded to the left."""
    inputs = encode(processor, [messages(question) for question in QUESTIONS], processor_kwargs={"padding": True})
    assert inputs["pixel_values"].shape == (6, 3, 64, 64)
    for question, tokens in zip(QUESTIONS, answer(model, inputs), strict=True):
        wanted = expected("tiny", question, "answer").tolist()
        assert tokens[: len(wanted)] == wanted, question


def test_a_processor_called_by_itself(model: Any, processor: Any) -> None:
    text = processor.apply_chat_template(messages("two images"), add_generation_prompt=True)
    assert text.count(processor.image_token) == 2
    inputs = processor(images=images([0, 1]), text=text, return_tensors="pt")
    assert answer(model, inputs)[0] == expected("tiny", "two images", "answer").tolist()


def test_pipeline(tiny: Path, processor: Any) -> None:
    pipe = pipeline("image-text-to-text", model=str(tiny), trust_remote_code=True, dtype=torch.float32)
    for question in ("one image", "two images"):
        tokens = expected("tiny", question, "answer").tolist()
        said = pipe(text=messages(question), max_new_tokens=MAX_TOKENS, return_full_text=False)
        assert said[0]["generated_text"] == processor.decode(tokens, skip_special_tokens=True)
    batch = pipe(text=[messages("one image"), messages("another image")], max_new_tokens=3, return_full_text=False)
    assert len(batch) == 2


def test_saved_again_it_still_stands_alone(model: Any, processor: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    assert {file.name for file in (tmp_path / "again").glob("*.py")} == CODE
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_minigpt_v2.MiniGPTv2Model"
    inputs = encode(processor_of(tmp_path / "again"), messages("one image"))
    assert answer(load(tmp_path / "again"), inputs)[0] == expected("tiny", "one image", "answer").tolist()


def test_saved_in_pieces_from_the_inner_model(tiny: Path, tmp_path: Path) -> None:
    AutoModel.from_pretrained(tiny, trust_remote_code=True).save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    first = AutoModel.from_pretrained(tiny, trust_remote_code=True)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), first.parameters(), strict=True))


def test_device_map(tiny: Path, processor: Any) -> None:
    mapped = load(tiny, device_map="auto")
    inputs = encode(processor, messages("one image"))
    assert answer(mapped, inputs)[0] == expected("tiny", "one image", "answer").tolist()


def test_layers_on_disk(tiny: Path, processor: Any, tmp_path: Path) -> None:
    """accelerate's way for what does not fit: no layer is split, and none is forgotten."""
    parts = {"model.vision_tower": "cpu", "model.vision_norm": "cpu", "model.projector": "cpu", "lm_head": "cpu"}
    parts |= {"model.language_model.embed_tokens": "cpu", "model.language_model.norm": "cpu"}
    parts |= {"model.language_model.rotary_emb": "cpu"}
    parts |= {"model.language_model.layers.0": "disk", "model.language_model.layers.1": "cpu"}
    mapped = load(tiny, device_map=parts, offload_folder=str(tmp_path))
    inputs = encode(processor, messages("one image"))
    assert answer(mapped, inputs)[0] == expected("tiny", "one image", "answer").tolist()


def test_four_bits(tiny: Path, processor: Any) -> None:
    """The linear layers of the language model in NF4, what sees and the head as they were."""
    kept = ["model.vision_tower", "model.vision_norm", "model.projector", "lm_head"]
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=kept)
    model = load(tiny, quantization_config=quantization, device_map="cpu")
    kinds = {name: type(module).__name__ for name, module in model.named_modules() if "Linear" in type(module).__name__}
    assert {kind for name, kind in kinds.items() if "language_model" in name} == {"Linear4bit"}
    assert {kind for name, kind in kinds.items() if "language_model" not in name} == {"Linear"}
    assert len(answer(model, encode(processor, messages("one image")))[0]) <= MAX_TOKENS


def test_compiled(tiny: Path, processor: Any) -> None:
    """In one graph: nothing that torch cannot follow."""
    model = load(tiny)
    inputs = encode(processor, messages("two images"))
    with torch.inference_mode():
        plain = model(**inputs).logits
        compiled = torch.compile(model, fullgraph=True, backend="eager")(**inputs).logits
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)
