"""What checkpoints are made of: the original release's files, and the default model's parts."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from fourfold.assistant.checkpoints.clip_onnx import read_clip_vision
from fourfold.assistant.checkpoints.llama_gguf import GGUFFile
from fourfold.assistant.checkpoints.original.parts import open_release
from fourfold.assistant.checkpoints.original.tensor_files import open_directory, open_pickled
from tests.assistant.checkpoints.release_files import IMAGE_SIZE, make_release
from tests.assistant.checkpoints.tiny_weights import tiny_llama, tiny_tower, write_gguf, write_onnx
from tests.fuzz.mutation import Mutator, by_name, named, parted, safetensors
from tests.fuzz.target import Target

_GRAPH = 8192  # bytes at the beginning of a file that say what follows


def release(directory: Path) -> Target:
    """Pickles, safetensors, an index, and the configuration and tokenizer of a LLaMA."""
    whole, small = make_release(directory / "whole").write(), directory / "small"
    small.mkdir(parents=True, exist_ok=True)
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}
    torch.save({"model": tensors, "config": {"model": {"lora_alpha": 16}}, "epoch": 3}, small / "new.pth")
    torch.save(tensors, small / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": tensors["a.weight"]}, small / "odd.pth")
    save_file(tensors, small / "model.safetensors")
    index = {"metadata": {"total_size": 28}, "weight_map": {"a.weight": "x.safetensors", "b": "x.safetensors"}}
    files = {path.name: path.read_bytes() for path in small.iterdir()}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    llama = {name: (whole.llama_path / name).read_bytes() for name in ("config.json", "tokenizer.model")}
    case = directory / "case"
    case.mkdir(exist_ok=True)

    def read(given: bytes) -> None:
        name, content = parted(given)
        if name in llama:
            (whole.llama_path / name).write_bytes(content)
            try:
                open_release(whole.checkpoint_path, whole.llama_path, whole.vision_path, IMAGE_SIZE).plan(merge=True)
            finally:
                (whole.llama_path / name).write_bytes(llama[name])
            return
        if name not in files:
            return
        for path in case.iterdir():
            path.unlink()
        if name.endswith(".pth"):
            (case / name).write_bytes(content)
            opened = open_pickled("the checkpoint", case / name)[0]
        else:
            os.link(small / "model.safetensors", case / "x.safetensors")
            (case / name).write_bytes(content)
            opened = open_directory("the LLaMA", case)
        for key in opened.shapes:
            opened.read(key).float().sum()

    mutate = by_name([(".json", Mutator.json), (".safetensors", safetensors)])
    return Target([named(name, content) for name, content in {**files, **llama}.items()], read, mutate, 2**15)


def parts(directory: Path) -> Target:
    """A GGUF and an ONNX file; most changes are where they say what they hold."""
    directory.mkdir(parents=True, exist_ok=True)
    write_gguf(directory / "sound.gguf", tiny_llama())
    write_onnx(directory / "sound.onnx", tiny_tower())
    files = {path.name: path.read_bytes() for path in (directory / "sound.gguf", directory / "sound.onnx")}

    def read(given: bytes) -> None:
        name, content = parted(given)
        path = directory / f"case.{name.rpartition('.')[2]}"
        if name not in files:
            return
        path.write_bytes(content)
        if path.suffix == ".onnx":
            read_clip_vision(path)
            return
        gguf = GGUFFile(path)
        gguf.config()
        gguf.weights()
        gguf.tokenizer({})

    def mutate(mutator: Mutator, content: bytes) -> bytes:
        if mutator.random.random() < 0.2:
            return mutator.bytes(content)
        return mutator.bytes(content[:_GRAPH]) + content[_GRAPH:]

    seeds = [named(name, content) for name, content in files.items()]
    return Target(seeds, read, by_name([("", mutate)]), max(map(len, seeds)) + 4096)
