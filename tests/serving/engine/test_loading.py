"""Loading checkpoints into the engine: what is refused, in which format it runs, and on how many threads."""

import json
import shutil
from pathlib import Path

import bitsandbytes
import pytest
import torch

from fourfold.prompts.errors import UserError
from fourfold.serving.engine import loading
from fourfold.serving.engine.engine import Engine, EngineClosed, Request, Sampling
from fourfold.serving.engine.loading import NumberFormat, Quantization, choose_device, choose_format
from fourfold.serving.engine.onnx_backend import decoder as onnx_decoder
from fourfold.serving.engine.onnx_backend.decoder import int8_is_good
from fourfold.serving.engine.threads import threads
from tests.serving.engine.conversations import Reference, ask, conversations, load
from tests.serving.engine.test_adapters import save_adapter
from tests.tiny import save_tiny_checkpoint, tiny_config

CPU = "cpu"
LINEAR = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}


def test_bad_checkpoints_are_one_clear_line(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def expect(words: str) -> None:
        with pytest.raises(UserError, match=words) as caught:
            Engine.load(copy, dtype="float32", device="cpu")
        assert "\n" not in str(caught.value)

    copy = tmp_path / "absent"
    expect("no such checkpoint directory")
    copy = tmp_path / "copy"
    copy.mkdir()
    expect(r"cannot read .*config\.json")
    shutil.copytree(tiny_checkpoint, copy, dirs_exist_ok=True)
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    expect("cannot load the weights")
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
    deeper = {**config, "vision_config": {**config["vision_config"], "num_hidden_layers": 3}}
    (copy / "config.json").write_text(json.dumps(deeper))
    expect(r"lack 'model\.vision_tower\.encoder\.layers\.2")
    wider = {**config, "text_config": {**config["text_config"], "intermediate_size": 256}}
    (copy / "config.json").write_text(json.dumps(wider))
    expect("cannot load the weights")
    (copy / "config.json").write_text(json.dumps({**config, "image_token_id": 5}))
    expect("image tokens")


def test_a_mistake_of_ours_is_not_told_as_damage(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: object, **__: object) -> None:
        raise NameError("name 'tensor' is not defined")

    monkeypatch.setattr("fourfold.serving.engine.loading.OnnxModel", mistaken)
    with pytest.raises(NameError):
        Engine.load(tiny_checkpoint, dtype="float32", device="cpu")
    monkeypatch.setattr("fourfold.serving.engine.loading.choose_format", lambda *_: {}["auto"])
    with pytest.raises(KeyError):
        Engine.load(tiny_checkpoint, dtype="float32", device="cpu")


def test_a_checkpoints_code_is_not_run_and_nobody_is_asked_whether_it_may(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    hostile = {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["theirs.Theirs", None]}}
    (copy / "tokenizer_config.json").write_text(json.dumps(settings | hostile))
    (copy / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Theirs: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what somebody in a hurry types
    with pytest.raises(UserError, match="custom code"):
        Engine.load(copy, dtype="float32", device="cpu")
    assert not (tmp_path / "ran").exists()


def test_unknown_dtypes_and_devices_are_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(UserError, match="no dtype is called 'int3'"):
        Engine.load(tiny_checkpoint, dtype="int3")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no device is called 'abacus'"):
        Engine.load(tiny_checkpoint, device="abacus")


def test_a_device_is_chosen_of_those_that_are_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    for absent in ("cuda", "mps"):
        with pytest.raises(UserError, match=f"no {absent.upper()} device"):
            choose_device(absent)
    assert not caplog.records
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("mps") == "mps"
    assert "nobody has tried" in caplog.text
    assert choose_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"


def test_bfloat16_answers_about_as_float32_does(tiny_checkpoint: Path) -> None:
    messages = conversations()[0]
    reference = Reference(tiny_checkpoint)
    with Engine.load(tiny_checkpoint, dtype="bfloat16", device="cpu") as low:
        completion = ask(low, messages, max_tokens=6, logprobs=0)
        assert low.dtype == "bfloat16"
    reference.check_logprobs(messages, completion, 0.1)


def test_a_closed_engine_refuses_and_fails_what_is_running(tiny_checkpoint: Path) -> None:
    engine = Engine.load(tiny_checkpoint, dtype="float32", device="cpu")
    running = engine.submit(Request(conversations()[0], Sampling(max_tokens=1000)))
    next(iter(running))
    engine.close()
    with pytest.raises(EngineClosed):
        running.result()
    with pytest.raises(EngineClosed):
        ask(engine, conversations()[0])


def test_suppressed_tokens_are_never_drawn(checkpoint: Path, reference: Reference, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    messages = conversations()[0]
    plain = reference.greedy(messages, 12)
    config = json.loads((copy / "generation_config.json").read_text())
    config["suppress_tokens"] = [plain[0], plain[5]]
    (copy / "generation_config.json").write_text(json.dumps(config))
    with load(copy) as engine:
        greedy = ask(engine, messages, max_tokens=12, logprobs=0)
        drawn = ask(engine, messages, max_tokens=100, temperature=1.0, seed=1)
    assert greedy.token_ids == Reference(copy).greedy(messages, 12)
    assert not {plain[0], plain[5]}.intersection(greedy.token_ids + drawn.token_ids)
    expected = reference.logprobs(messages, greedy.token_ids)  # the model's own, before anything is taken out
    assert greedy.logprobs is not None
    assert greedy.logprobs[0].logprob == pytest.approx(float(expected[0, greedy.token_ids[0]]), abs=1e-4)


def test_the_window_of_a_sliding_attention_bounds_the_context(tmp_path: Path) -> None:
    checkpoint = save_tiny_checkpoint(tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["sliding_window"] = 100
    (checkpoint / "config.json").write_text(json.dumps(config))
    with Engine.load(checkpoint, dtype="float32", device="cpu") as windowed:
        assert windowed.context_length == 100


def test_torch_computes_on_the_threads_that_may_be_used_now(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    with Engine.load(tiny_checkpoint, dtype="bfloat16", device="cpu") as engine:
        for number in (5, 3):
            monkeypatch.setattr(threads, "now", lambda number=number: number)
            seen.clear()
            ask(engine, conversations()[0], max_tokens=1)
            assert set(seen) == {number}


@pytest.mark.parametrize("good", [True, False])
def test_int8_is_taken_where_the_processor_is_good_at_it(good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "int8_is_good", lambda: good)
    chosen = choose_format("auto", tiny_config(), CPU)
    assert chosen == NumberFormat("float32", "int8" if good else "float32")


def test_a_named_format_is_taken_as_it_is() -> None:
    assert choose_format("int8", tiny_config(), CPU) == NumberFormat("float32", "int8")
    assert choose_format("float32", tiny_config(), CPU) == NumberFormat("float32", "float32")
    assert choose_format("bfloat16", tiny_config(), CPU) == NumberFormat("bfloat16")
    with pytest.raises(UserError, match="int8, float32, bfloat16, float16"):
        choose_format("float8", tiny_config(), CPU)  # type: ignore[arg-type]


def test_other_language_models_and_bitsandbytes_are_torchs() -> None:
    biased = tiny_config()
    biased.text_config.attention_bias = True
    assert choose_format("auto", biased, CPU) == NumberFormat("float32")
    assert choose_format("auto", tiny_config(), CPU, "4bit") == NumberFormat("float32")
    for config, quantization in ((biased, None), (tiny_config(), "8bit")):
        with pytest.raises(UserError, match="plain LLaMA"):
            choose_format("int8", config, CPU, quantization)  # type: ignore[arg-type]


def test_a_kernel_that_adds_up_wrongly_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = int8_is_good()
    assert answer == int8_is_good()
    # A graph with other weights stands for a kernel whose sums overflow.
    exact = onnx_decoder.product_graph
    factor = {"int8": 0.9, "float32": 1}
    monkeypatch.setattr(onnx_decoder, "product_graph", lambda weight, kind: exact(weight * factor[kind], kind))
    int8_is_good.cache_clear()
    try:
        assert int8_is_good() is False
    finally:
        int8_is_good.cache_clear()


def test_int8_answers_about_as_float32_does(checkpoint: Path, reference: Reference) -> None:
    with Engine.load(checkpoint, dtype="int8", device="cpu") as engine:
        for messages in conversations():
            completion = ask(engine, messages, max_tokens=8, logprobs=0)
            reference.check_logprobs(messages, completion, 0.2)
            assert ask(engine, messages, max_tokens=8).token_ids == completion.token_ids


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_only_the_language_model_is_quantised_and_it_answers(
    tiny_checkpoint: Path, quantization: Quantization, tmp_path: Path
) -> None:
    with Engine.load(tiny_checkpoint, quantization=quantization, dtype="float32", device="cpu") as engine:
        model = engine.model_runner.in_torch.model
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                expected = "language_model" in name
                assert isinstance(module, LINEAR[quantization]) == expected, name
        assert model.model.projector.weight.dtype == torch.float32
        completions = engine.generate(
            [Request(messages, Sampling(max_tokens=5, logprobs=0)) for messages in conversations()]
        )
        # Rounding moves the log-probabilities of a random model a little, not a lot.
        reference = Reference(tiny_checkpoint)
        for messages, completion in zip(conversations(), completions, strict=True):
            reference.check_logprobs(messages, completion, 0.3)
        # Adapters go on top of quantised weights, and off again.
        before = ask(engine, conversations()[0], max_tokens=6).token_ids
        engine.load_adapter("loud", save_adapter(tiny_checkpoint, tmp_path / "loud", seed=3))
        loud = engine.generate([Request(conversations()[0], Sampling(max_tokens=6), adapter="loud")])[0]
        assert loud.token_ids != before
        engine.unload_adapter("loud")
        assert ask(engine, conversations()[0], max_tokens=6).token_ids == before


def test_four_bit_weights_take_less_room(tiny_checkpoint: Path) -> None:
    sizes = {}
    for quantization in (None, "4bit"):
        with Engine.load(tiny_checkpoint, quantization=quantization, dtype="float32", device="cpu") as engine:  # type: ignore[arg-type]
            sizes[quantization] = engine.weight_bytes
    with Engine.load(tiny_checkpoint, dtype="float32", device="cpu") as engine:
        layers = engine.model_runner.in_torch.model.model.language_model.layers
        linear = sum(module.weight.nbytes for module in layers.modules() if isinstance(module, torch.nn.Linear))
    assert sizes["4bit"] < sizes[None] - 0.8 * linear
