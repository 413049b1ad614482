"""The converted release against a second implementation, and what lies beside its weights."""

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from fourfold.assistant.checkpoints.original.convert import Conversion, convert
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.progress import Progress
from fourfold.prompts.chat import load_template
from fourfold.prompts.errors import UserError
from tests.assistant import naive_minigpt_v2 as naive
from tests.assistant.checkpoints import release_files as tiny
from tests.assistant.checkpoints.release_files import Release, make_release


@dataclasses.dataclass
class Converted:
    release: Release
    result: Conversion
    model: MiniGPTv2ForConditionalGeneration
    processor: MiniGPTv2Processor


def converted(directory: Path, **options: Any) -> Converted:
    release = make_release(directory, **options).write()
    result = convert(**release.paths(), out=directory / "out", dtype="float32", image_size=tiny.IMAGE_SIZE)
    model, info = AutoModelForImageTextToText.from_pretrained(result.directory, output_loading_info=True)
    assert not any(info.values()), info
    return Converted(release, result, model, AutoProcessor.from_pretrained(result.directory))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return converted(tmp_path_factory.mktemp("release"))


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (70, 150, 3), dtype=np.uint8))


def arrays(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {key: value.double().numpy() for key, value in tensors.items()}


def difference(one: Converted, images: int) -> float:
    """Biggest difference of a logit, over a prompt with so many images, from the naive implementation in float64."""
    content: list[dict[str, Any]] = []
    sentences = SentencePieceProcessor(model_file=str(one.release.llama_path / "tokenizer.model"))
    segments = [[1, 1, *sentences.encode("[INST] " + ("<Img>" if images else "what is it? [/INST]"))]]
    for index in range(images):
        content.append({"type": "image", "image": picture(index)})
        after = "</Img> <Img>" if index + 1 < images else "</Img> what is it? [/INST]"
        segments.append(sentences.encode(after))
    content.append({"type": "text", "text": "what is it?"})
    batch = one.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    pixels = [image.double().numpy() for image in batch.get("pixel_values", [])]
    reference = naive.logits(
        arrays(one.release.vision),
        arrays(one.release.trained["model"]),
        arrays(one.release.llama),
        segments,
        pixels,
        heads=tiny.HEADS,
        scale=tiny.ALPHA / tiny.RANK,
    )
    model = copy.deepcopy(one.model).double()
    with torch.no_grad():
        values = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
        ours = model(**values).logits[0].numpy()
    assert ours.shape == (len(reference), reference.shape[1] + 1)
    # The row for the placeholder is <unk>'s, so that nothing about the published vocabulary changes.
    np.testing.assert_allclose(ours[:, -1], ours[:, 0], atol=1e-12)
    assert np.abs(reference).max() > 0.5, "logits of nothing would agree too"
    return float(np.abs(ours[:, :-1] - reference).max())


@pytest.mark.parametrize("images", [0, 1, 2])
def test_parity(plain: Converted, images: int) -> None:
    assert difference(plain, images) < 1e-5


def test_parity_of_newer_peft_names_without_buffers(tmp_path: Path) -> None:
    assert difference(converted(tmp_path, seed=1, new_peft=True, buffers=False), 1) < 1e-5


def test_parity_feels_the_lora(plain: Converted) -> None:
    """The failure in the wild: a LoRA that is lost without a word. The reference without it is far off."""
    without = {key: value for key, value in plain.release.trained["model"].items() if "lora_B" not in key}
    without |= {k: torch.zeros_like(v) for k, v in plain.release.trained["model"].items() if "lora_B" in k}
    lost = dataclasses.replace(plain.release, trained={**plain.release.trained, "model": without})
    assert difference(dataclasses.replace(plain, release=lost), 1) > 0.1


def test_image_features_are_the_fold_of_horizontal_neighbours(plain: Converted) -> None:
    image = torch.randn(1, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, dtype=torch.float64)
    reference = naive.image_tokens(
        arrays(plain.release.vision), arrays(plain.release.trained["model"]), image[0].numpy()
    )
    with torch.no_grad():
        ours = copy.deepcopy(plain.model).double().get_image_features(image).pooler_output[0]
    np.testing.assert_allclose(ours.numpy(), reference, atol=1e-5)
    assert plain.model.config.fold_cell == (1, 4)


def test_merged_and_kept_adapter_answer_alike(plain: Converted, tmp_path: Path) -> None:
    from peft import PeftModel

    result = convert(
        **plain.release.paths(), out=tmp_path / "kept", dtype="float32", image_size=tiny.IMAGE_SIZE, keep_adapter=True
    )
    assert result.adapter == tmp_path / "kept" / "adapter"
    base = AutoModelForImageTextToText.from_pretrained(result.directory)
    ids = torch.tensor([[1, 1, 263, 262, 279, 300]])
    with torch.no_grad():
        bare = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, result.adapter)(input_ids=ids).logits
        merged = plain.model(input_ids=ids).logits
    torch.testing.assert_close(adapted, merged, atol=2e-5, rtol=1e-5)
    assert (bare - merged).abs().max() > 0.1
    settings = json.loads((result.adapter / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["target_modules"]) == (8, 16, ["q_proj", "v_proj"])


def test_engine_serves_the_kept_adapter(plain: Converted, tmp_path: Path) -> None:
    from fourfold.serving.engine.engine import Engine, Request, Sampling

    convert(
        **plain.release.paths(), out=tmp_path / "kept", dtype="float32", image_size=tiny.IMAGE_SIZE, keep_adapter=True
    )
    request = Request(
        [{"role": "user", "content": [{"type": "image", "image": picture(0)}, {"type": "text", "text": "yes"}]}],
        Sampling(max_tokens=5),
    )
    answers = []
    for directory, adapter in ((plain.result.directory, None), (tmp_path / "kept", tmp_path / "kept" / "adapter")):
        with Engine.load(directory, dtype="float32", device="cpu", adapter=adapter) as engine:
            answers.append(engine.generate([request])[0].token_ids)
    assert answers[0] == answers[1] and len(answers[0]) > 0


def test_pickled_shards_of_the_language_model_give_the_same_checkpoint(plain: Converted, tmp_path: Path) -> None:
    other = dataclasses.replace(plain.release, directory=tmp_path).write(llama_format="bin")
    result = convert(**other.paths(), out=tmp_path / "out", dtype="float32", image_size=tiny.IMAGE_SIZE)
    assert weights(result.directory) == weights(plain.result.directory)


def weights(directory: Path) -> dict[str, bytes]:
    tensors: dict[str, bytes] = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors |= {key: value.numpy().tobytes() for key, value in load_file(file).items()}
    return tensors


def test_round_trip_through_save_pretrained(plain: Converted, tmp_path: Path) -> None:
    plain.model.save_pretrained(tmp_path)
    assert weights(tmp_path) == weights(plain.result.directory)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_dtype(plain: Converted, tmp_path: Path, name: str) -> None:
    result = convert(**plain.release.paths(), out=tmp_path / "out", dtype=name, image_size=tiny.IMAGE_SIZE)
    assert str(AutoModelForImageTextToText.from_pretrained(result.directory).dtype) == f"torch.{name}"
    assert result.bytes == 2 * result.parameters


def test_numbers_too_big_for_the_dtype(plain: Converted, tmp_path: Path) -> None:
    big = {**plain.release.vision, "cls_token": plain.release.vision["cls_token"] + 1e6}
    release = dataclasses.replace(plain.release, vision=big, directory=tmp_path).write()
    with pytest.raises(UserError, match=r"class_embedding.*too big for float16.*bfloat16"):
        convert(**release.paths(), out=tmp_path / "out", image_size=tiny.IMAGE_SIZE)
    with pytest.raises(UserError, match="'int8' is not known"):
        convert(**release.paths(), out=tmp_path / "out", dtype="int8")


def test_positions_at_the_tower_s_own_size_are_untouched(plain: Converted, tmp_path: Path) -> None:
    result = convert(**plain.release.paths(), out=tmp_path / "out", dtype="float32", image_size=4 * tiny.PATCH)
    tensors = {}
    for file in result.directory.glob("*.safetensors"):
        tensors |= load_file(file)
    positions = tensors["model.vision_tower.embeddings.position_embedding"]
    assert torch.equal(positions, plain.release.vision["pos_embed"])


def test_resized_positions_equal_a_second_formula(plain: Converted) -> None:
    ours = plain.model.model.vision_tower.embeddings.position_embedding[0].detach().numpy()
    table = plain.release.vision["pos_embed"][0]
    np.testing.assert_allclose(ours, naive.resized_positions(table.double().numpy(), 8), atol=2e-6)
    assert np.array_equal(ours[0], table[0].numpy())


def test_what_lies_beside_the_weights(plain: Converted) -> None:
    directory = plain.result.directory
    processor = plain.processor
    image_processor = processor.image_processor
    assert (image_processor.size["height"], image_processor.resample, image_processor.do_center_crop) == (112, 3, False)
    np.testing.assert_allclose(image_processor.image_mean, (0.48145466, 0.4578275, 0.40821073))
    np.testing.assert_allclose(image_processor.image_std, (0.26862954, 0.26130258, 0.27577711))
    assert processor.num_image_tokens == plain.model.config.image_seq_length == 16
    assert processor.chat_template == load_template("minigpt_v2")
    assert (directory / "chat_template_train.jinja").read_text() == load_template("minigpt_v2_train")

    default = GenerationConfig.from_pretrained(directory)
    evaluation = GenerationConfig.from_pretrained(directory, config_file_name="generation_config_evaluation.json")
    demo = GenerationConfig.from_pretrained(directory, config_file_name="generation_config_demo.json")
    placeholder = len(tiny.pieces())
    for settings in (default, evaluation, demo):
        assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 2, 0)
        assert settings.suppress_tokens == [placeholder]
    assert (default.do_sample, default.max_new_tokens) == (False, None)
    assert (evaluation.do_sample, evaluation.max_new_tokens) == (False, 20)
    assert (demo.do_sample, demo.temperature, demo.top_p, demo.repetition_penalty, demo.max_new_tokens) == (
        True,
        0.6,
        0.9,
        1.05,
        500,
    )
    assert plain.model.config.image_token_id == placeholder

    code = {path.name for path in directory.glob("*.py")}
    assert code == {f"{kind}_minigpt_v2.py" for kind in ("configuration", "modeling", "processing")}
    assert "AutoModelForImageTextToText" in json.loads((directory / "config.json").read_text())["auto_map"]

    report = json.loads((directory / "conversion.json").read_text())
    assert [source["file"] for source in report["sources"]] == [
        "checkpoint_stage3.pth",
        "eva_vit_g.pth",
        "model.safetensors",
        "tokenizer.model",
    ]
    assert all(len(source["sha256"]) == 64 for source in report["sources"])
    assert report["lora"] == {"rank": 8, "scale": 2.0, "merged": True}
    assert "blocks.2.attn.qkv.weight" in report["left_out"] and "blocks.1.attn.qkv.weight" not in report["left_out"]
    assert not [path for path in directory.iterdir() if path.name.startswith(".") or path.name == "plan.json"]


def test_licences_travel(plain: Converted, tmp_path: Path) -> None:
    release = dataclasses.replace(plain.release, directory=tmp_path).write()
    (release.llama_path / "LICENSE.txt").write_text("terms")
    convert(**release.paths(), out=tmp_path / "out", image_size=tiny.IMAGE_SIZE)
    assert (tmp_path / "out" / "LICENSE.llama.txt").read_text() == "terms"


def test_alpha_comes_from_the_file_s_configuration(plain: Converted, tmp_path: Path) -> None:
    trained = {**plain.release.trained, "config": {"model": {"lora_alpha": 32}}}
    release = dataclasses.replace(plain.release, trained=trained, directory=tmp_path).write()
    assert convert(**release.paths(), out=tmp_path / "out", image_size=tiny.IMAGE_SIZE).scale == 4.0


# -- one shard at a time, and interruptions ---------------------------------------------------------------------------


def test_an_existing_directory_is_not_touched(plain: Converted) -> None:
    with pytest.raises(UserError, match="exists already"):
        convert(**plain.release.paths(), out=plain.result.directory, image_size=tiny.IMAGE_SIZE)


def test_too_small_a_disk_is_told_before_anything_is_written(
    plain: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(UserError, match=r"GB free and the weights need"):
        convert(**plain.release.paths(), out=tmp_path / "out", image_size=tiny.IMAGE_SIZE)
    assert not list(tmp_path.iterdir())


def test_goes_on_after_an_interruption(plain: Converted, tmp_path: Path) -> None:
    """Stopped in the third shard; the first two are not made again, and the result is the same."""
    options: dict[str, Any] = {
        **plain.release.paths(),
        "out": tmp_path / "out",
        "dtype": "float32",
        "image_size": tiny.IMAGE_SIZE,
        "shard_bytes": 400_000,
    }

    def interrupt(event: Progress) -> None:
        if len(list((tmp_path / ".out.part").glob("*.safetensors"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(**options, on_progress=interrupt)
    assert not (tmp_path / "out").exists()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / ".out.part").glob("*.safetensors")}
    assert len(times) == 2
    told: list[tuple[str, int]] = []
    convert(**options, on_progress=lambda event: told.append((event.stage, event.done)))
    kept = {tmp_path / "out" / path.name: when for path, when in times.items()}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert weights(tmp_path / "out") == weights(plain.result.directory)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_begins_anew_when_the_sources_changed(plain: Converted, tmp_path: Path) -> None:
    part = tmp_path / ".out.part"
    part.mkdir()
    (part / "model-00001-of-00001.safetensors").write_bytes(b"of another run")
    (part / "plan.json").write_text("{}")
    convert(**plain.release.paths(), out=tmp_path / "out", dtype="float32", image_size=tiny.IMAGE_SIZE)
    assert weights(tmp_path / "out") == weights(plain.result.directory)


def test_survives_kill(plain: Converted, tmp_path: Path) -> None:
    command = _command(plain.release, tmp_path / "out", "time.sleep(0.05)")
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3])
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob(".out.part/*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".out.part/*.safetensors")) and not (tmp_path / "out").exists()
    convert(
        **plain.release.paths(),
        out=tmp_path / "out",
        dtype="float32",
        image_size=tiny.IMAGE_SIZE,
        shard_bytes=400_000,
    )
    assert weights(tmp_path / "out") == weights(plain.result.directory)


def _command(release: Release, out: Path, on_progress: str) -> list[str]:
    paths = ", ".join(f"{name}=Path({str(path)!r})" for name, path in release.paths().items())
    return [
        sys.executable,
        "-c",
        "import time\nfrom pathlib import Path\nfrom fourfold.assistant.checkpoints.original.convert import convert\n"
        f"convert({paths}, out=Path({str(out)!r}), dtype='float32', image_size={tiny.IMAGE_SIZE}, "
        f"shard_bytes=400_000, on_progress=lambda *_: {on_progress})",
    ]


def test_two_at_once_are_refused(plain: Converted, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / ".out.part").mkdir()
    with FileLock(tmp_path / ".out.part" / ".lock"), pytest.raises(UserError, match="another conversion"):
        convert(**plain.release.paths(), out=tmp_path / "out", image_size=tiny.IMAGE_SIZE)


def test_memory_is_that_of_one_shard(tmp_path: Path) -> None:
    """Private memory grows by about a shard while a checkpoint ten times its size is written."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc to see how much memory is private")
    shard, bulk = 16 << 20, 160 << 20
    rows = bulk // 4 // 1024
    code = f"""
import threading, time, torch
from pathlib import Path
from fourfold.assistant.checkpoints.original.tensor_files import Planned, write_shards
source = Path({str(tmp_path)!r}) / "source.pth"
torch.save({{f"t{{i}}": torch.zeros({rows} // 64, 1024) for i in range(64)}}, source)

def private():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon"))

tensors = torch.load(source, mmap=True, weights_only=True)
planned = {{k: Planned(tuple(v.shape), lambda v=v: v.float() + 1.0) for k, v in tensors.items()}}
before, peak, done = private(), [0], threading.Event()

def watch():
    while not done.is_set():
        peak[0] = max(peak[0], private())
        time.sleep(0.001)

watcher = threading.Thread(target=watch)
watcher.start()
size = write_shards(source.parent, planned, torch.float32, {shard}, lambda *_: None)
done.set(); watcher.join()
print(size, (peak[0] - before) * 1024)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    size, grown = map(int, run.stdout.split())
    assert size > 9 * shard
    assert shard / 2 < grown < 3 * shard, grown


def test_index_names_every_tensor(plain: Converted) -> None:
    index = json.loads((plain.result.directory / "model.safetensors.index.json").read_text())
    found = {}
    for file in plain.result.directory.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            found |= dict.fromkeys(opened.keys(), file.name)
    assert found == index["weight_map"]
    assert index["metadata"]["total_size"] == plain.result.bytes
