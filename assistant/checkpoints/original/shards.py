"""A checkpoint written shard by shard, so that a big one needs little memory."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from fourfold.assistant.checkpoints.original.tensor_files import Shape
from fourfold.assistant.checkpoints.progress import ProgressCallback
from fourfold.prompts.errors import UserError


@dataclass(frozen=True)
class Planned:
    """A tensor that is made when its turn comes.

    Args:
        shape: what it will have.
        make: reads or computes it, in any float dtype.
    """

    shape: Shape
    make: Callable[[], torch.Tensor]


def write_shards(
    directory: Path,
    tensors: Mapping[str, Planned],
    dtype: torch.dtype,
    shard_bytes: int,
    on_progress: ProgressCallback,
) -> int:
    """Write safetensors shards and their index; shards that an interrupted run finished stay.

    One shard is in memory at a time, and beside it the tensor that is being made. Each is written under another name
    and renamed, so that a shard that has its name is whole.

    Args:
        directory: where they go. It must hold nothing of another plan.
        tensors: all of them, in order.
        dtype: that they are written in.
        shard_bytes: upper limit of a shard; one bigger tensor gets a shard of its own.
        on_progress: told tensors done and in all.

    Returns:
        Bytes of all tensors.

    Raises:
        UserError: a tensor holds NaN or infinity, or numbers that `dtype` cannot hold.
    """
    shards = _divide(tensors, dtype.itemsize, shard_bytes)
    weight_map: dict[str, str] = {}
    done = 0
    for number, names in enumerate(shards, start=1):
        file = directory / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map.update(dict.fromkeys(names, file.name))
        if not file.exists():
            shard: dict[str, torch.Tensor] = {}
            for name in names:
                shard[name] = _made(name, tensors[name], dtype)
                on_progress("weights", done + len(shard), len(tensors))
            part = file.with_suffix(".part")
            save_file(shard, part, metadata={"format": "pt"})
            part.replace(file)
        done += len(names)
        on_progress("weights", done, len(tensors))
    size = sum(_count(planned.shape) for planned in tensors.values()) * dtype.itemsize
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    return size


def _divide(tensors: Mapping[str, Planned], itemsize: int, limit: int) -> list[list[str]]:
    shards: list[list[str]] = []
    room = 0
    for name, planned in tensors.items():
        size = _count(planned.shape) * itemsize
        if not shards or size > room:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    return shards


def _made(name: str, planned: Planned, dtype: torch.dtype) -> torch.Tensor:
    made = planned.make()
    if tuple(made.shape) != planned.shape:
        raise ValueError(f"{name} was planned as {planned.shape} and made as {tuple(made.shape)}")
    if not torch.isfinite(made).all():
        raise UserError(f"{name} holds NaN or infinity: a source file is damaged, download it again")
    # A copy always: what was read may be a view of a mapped file, which would hold on to the file's pages.
    cast = made.to(dtype, copy=True, memory_format=torch.contiguous_format)
    if not torch.isfinite(cast).all():
        raise UserError(f"{name} has numbers too big for {str(dtype).removeprefix('torch.')}; use --dtype bfloat16")
    return cast


def _count(shape: Shape) -> int:
    return torch.Size(shape).numel()
