"""Checkpoints to load and to serve: one file of a sound one at a time is another."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from fourfold.assistant.checkpoints.calibration import CALIBRATION_FILE, read_calibration
from fourfold.assistant.checkpoints.card import CARD_FILE, read_card
from fourfold.assistant.checkpoints.check import check_checkpoint
from fourfold.serving.engine.engine import Engine
from fourfold.serving.engine.requests import Request, Sampling
from tests.fuzz.mutation import Mutator, by_name, named, parted, safetensors
from tests.fuzz.target import Target
from tests.tiny import save_tiny_checkpoint

_WEIGHTS = "model.safetensors"
_BESIDE = {
    CARD_FILE: b'{"alone": {"line": "good at dogs", "tasks": {"vqa": {"level": "good", "note": "80"}}}, "talks": true}',
    CALIBRATION_FILE: b'{"model": "x", "temperatures": {"predicate": 1.5}, "fitted": {}}',
    "model.safetensors.index.json": b'{"metadata": {}, "weight_map": {"lm_head.weight": "model.safetensors"}}',
}
MUTATED = by_name([(".json", Mutator.json), (".jinja", Mutator.bytes), (".safetensors", safetensors)])


def checkpoints(directory: Path) -> Target:
    """A tiny checkpoint of all the files that fourfold writes."""
    sound = directory / "sound"
    if not sound.exists():
        save_tiny_checkpoint(sound)
    return _target(directory, sound)


def quantized(directory: Path) -> Target:
    """The same in 4 bits, compressed-tensors' format; its processor is left alone."""
    sound = directory / "quantized"
    if not sound.exists():
        from fourfold.assistant.quantization.quantize import quantize
        from tests.assistant.pictures import scene

        save_tiny_checkpoint(directory / "whole")
        (directory / "pictures").mkdir(exist_ok=True)
        scene().save(directory / "pictures" / "1.png")
        quantize(directory / "whole", sound, directory / "pictures", chats=2)
    return _target(directory, sound, {"config.json", _WEIGHTS})


def _target(directory: Path, sound: Path, only: set[str] | None = None) -> Target:
    case = directory / "case"
    data = (sound / _WEIGHTS).read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    files = {path.name: path.read_bytes() for path in sound.iterdir() if path.suffix in (".json", ".jinja")}
    # Of the weights the header travels; the numbers are put behind it again.
    files = {**files, **({} if only else _BESIDE), _WEIGHTS: data[:head]}
    seeds = [named(name, content) for name, content in files.items() if only is None or name in only]

    def load(given: bytes) -> None:
        name, content = parted(given)
        if name not in files:
            return
        content = content + data[head:] if name == _WEIGHTS else content
        _lay_out(sound, case, name, content)
        check_checkpoint(case)
        read_card(case)
        read_calibration(case)
        with Engine.load(case, dtype="float32", device="cpu", name="tiny", max_num_seqs=1) as engine:
            engine.generate([Request([{"role": "user", "content": "hello"}], Sampling(max_tokens=1))])

    return Target(seeds, load, MUTATED, 2**16)


def _lay_out(sound: Path, case: Path, name: str, content: bytes) -> None:
    """The sound checkpoint with one file replaced, or added."""
    shutil.rmtree(case, ignore_errors=True)
    case.mkdir(parents=True)
    link: Callable[[Path, Path], object] = os.link
    for path in sound.iterdir():
        if path.is_file() and path.name != name:
            link(path, case / path.name)
    (case / name).write_bytes(content)
