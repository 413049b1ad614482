"""Whether a directory holds a checkpoint that can be loaded, seen without loading it."""

import json
from pathlib import Path

from fourfold.prompts.errors import UserError

MODEL_TYPE = "minigpt_v2"


def is_minigpt_v2(directory: Path) -> bool:
    """Whether a checkpoint is of the architecture that the engine runs; others can be refined, and asked elsewhere."""
    try:
        return json.loads((directory / "config.json").read_text(encoding="utf-8")).get("model_type") == MODEL_TYPE
    except (OSError, ValueError, AttributeError):
        return True  # what is no checkpoint at all is told by whoever loads it as one


def check_checkpoint(directory: Path, *, any_architecture: bool = False) -> None:
    """See that a directory holds a MiniGPT-v2 checkpoint with whole weights and a processor.

    Only names, `config.json` and the sizes that the weights' headers announce are looked at: milliseconds.

    Args:
        directory: of the checkpoint.
        any_architecture: take any other that transformers may know, whose processor has other files, too.

    Raises:
        UserError: it does not; the message says what is wrong.
    """
    if (directory / "adapter_config.json").is_file() and not (directory / "config.json").is_file():
        raise UserError(f"{directory} is a LoRA adapter, not a model; give the checkpoint it was trained on")
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        kind = config["model_type"]
    except FileNotFoundError:
        raise UserError(
            f"{directory} is not a checkpoint: it has no config.json; an original MiniGPT-v2 release becomes one with "
            "`fourfold convert`"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{directory / 'config.json'} is not a model's configuration ({error})") from error
    if kind != MODEL_TYPE and not any_architecture:
        raise UserError(
            f"{directory} holds a model of type {kind!r}; fourfold runs {MODEL_TYPE!r} checkpoints, and asks others "
            "where they are served (--endpoint)"
        )
    if config.get("vision_llm_block") is not None:
        raise UserError(
            f"{directory} has a block of the language model behind its image tower (vision_llm_block), which only "
            "recipes of `fourfold train` know now; take a checkpoint without one"
        )
    weights = sorted(directory.glob("*.safetensors"))
    if index := sorted(directory.glob("*.safetensors.index.json")):
        try:
            names = set(json.loads(index[0].read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{index[0]} is damaged ({error}); copy or download it again") from error
        if absent := sorted(names - {path.name for path in weights}):
            raise UserError(f"{directory} is not complete: {absent[0]} is missing; copy or download it again")
    if not weights:
        raise UserError(f"{directory} has a config.json but no *.safetensors weights; copy or download it again")
    for path in weights:
        if not _is_whole(path):
            raise UserError(f"{path} is cut off or damaged; copy or download it again")
    if kind != MODEL_TYPE:
        return
    for file in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        if not (directory / file).is_file():
            raise UserError(f"{directory} lacks {file}, which belongs to the processor; copy or download it again")


def _is_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says (8 bytes of length, JSON header, data)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            return False
    return size == 8 + length + max(ends, default=0)
