"""MiniGPT-v2's public release made into an ordinary checkpoint directory, exactly or not at all."""

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from transformers import CLIPImageProcessorPil, GenerationConfig
from transformers.dynamic_module_utils import custom_object_save

from fourfold.assistant.checkpoints.original.parts import ReleaseParts, open_release
from fourfold.assistant.checkpoints.original.release import LORA_TARGETS
from fourfold.assistant.checkpoints.original.stages import PAPER, Stage, detect_stage
from fourfold.assistant.checkpoints.original.tensor_files import write_shards
from fourfold.assistant.files import write_text
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.prompts.chat import load_template
from fourfold.prompts.errors import UserError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_LOCK, _PLAN, _ADAPTER = ".lock", "plan.json", "adapter"
# Servers take the first of these for their defaults, and a length in it for a limit: it is greedy and has none. The
# other two are the release's.
_GENERATION: Mapping[str, Mapping[str, Any]] = {
    "generation_config.json": {"do_sample": False},
    "generation_config_evaluation.json": {"do_sample": False, "max_new_tokens": 20},
    "generation_config_demo.json": {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
        "repetition_penalty": 1.05,
        "max_new_tokens": 500,
    },
}


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Args:
        directory: the new checkpoint.
        adapter: the PEFT adapter in it, where the LoRA was kept apart.
        stage: which of the public checkpoints the file seems to be.
        rank: of the LoRA.
        scale: by which B A was added, or is to be.
        parameters: of the model.
        bytes: of the weights.
        left_out: keys of the sources that the model has no use for.
    """

    directory: Path
    adapter: Path | None
    stage: Stage
    rank: int
    scale: float
    parameters: int
    bytes: int
    left_out: tuple[str, ...]


def convert(
    checkpoint: Path,
    llama: Path,
    vision: Path,
    out: Path,
    *,
    keep_adapter: bool = False,
    dtype: str = "float16",
    image_size: int = 448,
    shard_bytes: int = 2_000_000_000,
    on_progress: OnProgress = lambda event: None,
) -> Conversion:
    """Make a checkpoint directory of the release's files.

    It is built in `.<name>.part` beside `out`, which takes its name at the end. After an interruption the same command
    goes on where it was, shard by shard.

    Args:
        checkpoint: the release's `.pth`.
        llama: directory of Llama-2-7b-chat in transformers' format, with `tokenizer.model`.
        vision: LAVIS's `eva_vit_g.pth`.
        out: the new directory.
        keep_adapter: write the LoRA as a PEFT adapter into `out/adapter` instead of adding it to the weights.
        dtype: a key of `DTYPES`.
        image_size: side of the square image in pixels.
        shard_bytes: upper limit of one weight file, and about what the conversion needs of memory.
        on_progress: told what is going on.

    Raises:
        UserError: a file is missing, does not match, or the disk is too small; nothing was changed in `out`.
    """
    if dtype not in DTYPES:
        raise UserError(f"the dtype {dtype!r} is not known; there are: {', '.join(DTYPES)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; choose another name or remove it")
    release = open_release(checkpoint, llama, vision, image_size)
    planned = release.plan(merge=not keep_adapter)
    parameters = sum(torch.Size(tensor.shape).numel() for tensor in planned.values())
    stage = detect_stage(checkpoint, release.beside)

    part = out.absolute().parent / f".{out.name}.part"
    _require_space(part, parameters * DTYPES[dtype].itemsize)
    part.mkdir(parents=True, exist_ok=True)
    lock = FileLock(part / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(f"another conversion is writing {out} at this moment; wait for it") from error
    try:
        report = {
            "fourfold": importlib.metadata.version("fourfold"),
            "sources": [_describe(path, on_progress) for path in release.paths],
            "stage": asdict(stage) | {"expected_from": PAPER if stage.expected else None},
            "lora": {"rank": release.parts.rank, "scale": release.scale, "merged": not keep_adapter},
            "dtype": dtype,
            "image_size": image_size,
            "parameters": parameters,
            "left_out": list(release.left_out),
        }
        _begin_or_go_on(part, {"shard_bytes": shard_bytes, **report})
        size = write_shards(part, planned, DTYPES[dtype], shard_bytes, on_progress)
        if keep_adapter:
            _write_adapter(part / _ADAPTER, release)
        _write_settings(part, release, dtype)
        (part / "conversion.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        (part / _PLAN).unlink()
        (part / _LOCK).unlink()
        if out.exists():
            out.rmdir()  # it is empty
        part.replace(out)
    finally:
        lock.release()
    return Conversion(
        directory=out,
        adapter=out / _ADAPTER if keep_adapter else None,
        stage=stage,
        rank=release.parts.rank,
        scale=release.scale,
        parameters=parameters,
        bytes=size,
        left_out=release.left_out,
    )


def _write_adapter(directory: Path, release: ReleaseParts) -> None:
    from peft import LoraConfig
    from safetensors.torch import save_file

    directory.mkdir(exist_ok=True)
    LoraConfig(
        r=release.parts.rank,
        lora_alpha=release.alpha,
        lora_dropout=0.05,
        target_modules=list(LORA_TARGETS),
        bias="none",
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).save_pretrained(str(directory))
    # PEFT writes the targets in the order of a set, another one each time.
    settings = directory / "adapter_config.json"
    written = json.loads(settings.read_text(encoding="utf-8"))
    written["target_modules"].sort()
    settings.write_text(json.dumps(written, indent=2, sort_keys=True), encoding="utf-8")
    save_file(release.adapter(), directory / "adapter_model.safetensors", metadata={"format": "pt"})


def _write_settings(directory: Path, release: ReleaseParts, dtype: str) -> None:
    """Everything beside the weights: configuration, processor, prompts, generation settings, licences."""
    config = release.config
    config.architectures = [MiniGPTv2ForConditionalGeneration.__name__]
    for part in (config, config.vision_config, config.text_config):
        part.dtype = DTYPES[dtype]
    config.save_pretrained(directory)
    custom_object_save(MiniGPTv2ForConditionalGeneration, directory)  # its source: no model is saved as a whole here
    size = config.vision_config.image_size
    MiniGPTv2Processor(
        image_processor=CLIPImageProcessorPil(
            size={"height": size, "width": size}, do_center_crop=False, resample=3, do_convert_rgb=True
        ),
        tokenizer=release.tokenizer,
        num_image_tokens=config.image_seq_length,
        chat_template=load_template("minigpt_v2"),
    ).save_pretrained(directory)
    (directory / "chat_template_train.jinja").write_text(load_template("minigpt_v2_train"), encoding="utf-8")
    tokens = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "suppress_tokens": [config.image_token_id],
    }
    for name, settings in _GENERATION.items():
        GenerationConfig(**tokens, **settings).save_pretrained(directory, config_file_name=name)
    for pattern in ("LICENSE*", "USE_POLICY*", "Notice*", "NOTICE*"):
        for file in release.language.paths[0].parent.glob(pattern):
            shutil.copyfile(file, directory / f"{file.stem}.llama{file.suffix}")


def _begin_or_go_on(part: Path, plan: dict[str, Any]) -> None:
    """Keep what an interrupted run of the very same conversion finished; remove what another left."""
    wanted = json.dumps(plan, sort_keys=True)
    found = part / _PLAN
    going_on = found.is_file() and found.read_text(encoding="utf-8") == wanted
    for path in part.iterdir():
        if going_on and not path.name.startswith("."):  # hidden: what a killed run was writing
            continue
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()
    if not going_on:
        write_text(found, wanted)


def _describe(path: Path, on_progress: OnProgress) -> dict[str, Any]:
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
            on_progress(Progress(f"sha256 of {path.name} (MB)", file.tell() // 10**6, size // 10**6))
    return {"file": path.name, "bytes": size, "sha256": digest.hexdigest()}


def _require_space(part: Path, needed: int) -> None:
    there = sum(path.stat().st_size for path in part.glob("*.safetensors")) if part.is_dir() else 0
    place = next(parent for parent in part.parents if parent.exists())
    free = shutil.disk_usage(place).free
    if free + there < needed:
        raise UserError(
            f"{place} has {free / 1e9:.1f} GB free and the weights need {needed / 1e9:.1f} GB; choose another place"
        )
