"""Whether a directory holds a checkpoint that can be loaded, seen without loading it."""

import json
from pathlib import Path

from fourfold.assistant.checkpoints.damage import check_backed, check_sizes, read_header
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
    except (ValueError, TypeError, KeyError, RecursionError) as error:
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
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(f"{index[0]} is damaged ({error}); copy or download it again") from error
        if absent := sorted(names - {path.name for path in weights}):
            raise UserError(f"{directory} is not complete: {absent[0]} is missing; copy or download it again")
    if not weights:
        raise UserError(f"{directory} has a config.json but no *.safetensors weights; copy or download it again")
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weights:
        header = read_header(path)
        if header is None:
            raise UserError(f"{path} is cut off or damaged; copy or download it again")
        shapes |= header
    check_sizes(config, directory / "config.json")
    if kind != MODEL_TYPE:
        return
    if not isinstance(config.get("text_config"), dict) or not isinstance(config.get("vision_config"), dict):
        raise UserError(f"{directory / 'config.json'} describes no language model and image tower; download it again")
    check_backed(config["text_config"], shapes, directory / "config.json")
    for file in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        if not (directory / file).is_file():
            raise UserError(f"{directory} lacks {file}, which belongs to the processor; copy or download it again")
