"""Loading checkpoints into the engine: what is refused, and in which format it runs."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from fourfold.prompts.errors import UserError
from fourfold.serving.engine.engine import Engine, EngineClosed, Request, Sampling
from tests.serving.conversations import Reference, ask, conversations
from tests.tiny import save_tiny_checkpoint


def test_bad_checkpoints_are_one_clear_line(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def expect(words: str) -> None:
        with pytest.raises(UserError, match=words) as caught:
            Engine.load(copy, dtype="float32", device="cpu")
        assert "\n" not in str(caught.value)

    copy = tmp_path / "absent"
    expect("no such checkpoint directory")
    copy = tmp_path / "copy"
    copy.mkdir()
    expect(r"no config\.json")
    shutil.copytree(tiny_checkpoint, copy, dirs_exist_ok=True)
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    expect(r"model\.safetensors is cut off")
    weights.write_bytes(whole)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    expect("'llama'")
    narrow = {**config, "vision_config": {**config["vision_config"], "image_size": 48}}
    (copy / "config.json").write_text(json.dumps(narrow))
    expect("does not divide into folds")
    deeper = {**config, "text_config": {**config["text_config"], "num_hidden_layers": 3}}
    (copy / "config.json").write_text(json.dumps(deeper))
    expect("lacks .* weights")
    wider = {**config, "text_config": {**config["text_config"], "intermediate_size": 256}}
    (copy / "config.json").write_text(json.dumps(wider))
    expect("cannot load the weights")
    (copy / "config.json").write_text(json.dumps({**config, "image_token_id": 5}))
    expect("image tokens")


def test_unknown_dtypes_and_devices_are_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(UserError, match="no dtype is called 'int3'"):
        Engine.load(tiny_checkpoint, dtype="int3")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no device is called 'abacus'"):
        Engine.load(tiny_checkpoint, device="abacus")


def test_bfloat16_answers_about_as_float32_does(tiny_checkpoint: Path) -> None:
    messages = conversations()[0]
    reference = Reference(tiny_checkpoint)
    with Engine.load(tiny_checkpoint, dtype="bfloat16", device="cpu") as low:
        completion = ask(low, messages, max_tokens=6, logprobs=0)
        assert low.dtype == torch.bfloat16
    assert completion.logprobs is not None
    expected = reference.logprobs(messages, completion.token_ids)
    for step, entry in enumerate(completion.logprobs):
        assert entry.logprob == pytest.approx(float(expected[step, entry.token_id]), abs=0.1)


def test_a_closed_engine_refuses_and_fails_what_is_running(tiny_checkpoint: Path) -> None:
    engine = Engine.load(tiny_checkpoint, dtype="float32", device="cpu")
    running = engine.submit(Request(conversations()[0], Sampling(max_tokens=1000)))
    next(iter(running))
    engine.close()
    with pytest.raises(EngineClosed):
        running.result()
    with pytest.raises(EngineClosed):
        ask(engine, conversations()[0])


def test_the_window_of_a_sliding_attention_bounds_the_context(tmp_path: Path) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["sliding_window"] = 100
    (checkpoint / "config.json").write_text(json.dumps(config))
    with Engine.load(checkpoint, dtype="float32", device="cpu") as windowed:
        assert windowed.context_length == 100
