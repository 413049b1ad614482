"""What can be told of a LoRA adapter by its files alone, before torch and a model are loaded for it."""

from pathlib import Path

from fourfold.assistant.checkpoints.damage import read_header
from fourfold.prompts.errors import UserError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def check_adapter_files(directory: Path) -> None:
    """See, without loading it, that a directory holds an adapter as PEFT saves it today.

    PEFT itself would take what is no directory for a name on the Hub, and would unpickle what is no safetensors file.

    Raises:
        UserError: a file is missing; the message says which.
    """
    for name in ADAPTER_FILES:
        if not (directory / name).is_file():
            raise UserError(f"{directory} is no LoRA adapter: it has no {name}; give the directory that PEFT saved")


def check_adapter_size(directory: Path, checkpoint: Path) -> None:
    """See, by the headers of both, that an adapter's matrices have the sizes of the language model that they change.

    What finds no weight of its name, or is no pair of matrices, is left to whoever loads it.

    Raises:
        UserError: one has another size.
    """
    held: dict[str, tuple[int, ...]] = {}
    for path in checkpoint.glob("*.safetensors"):
        held |= read_header(path) or {}
    for name, got in (read_header(directory / ADAPTER_FILES[1]) or {}).items():
        module, found, side = name.removeprefix("base_model.model.").partition(".lora_")
        below = module.rpartition("layers.")[2]
        changed = held.get(f"model.language_model.layers.{below}.weight")
        if not found or side not in ("A.weight", "B.weight") or "vision_tower." in module or len(got) != 2:
            continue
        if changed is None or len(changed) != 2:
            continue
        want = (got[0], changed[1]) if side == "A.weight" else (changed[0], got[1])
        if got != want:
            raise UserError(
                f"the adapter {directory} does not fit this model: {module}.lora_{side} is {got[0]} × {got[1]} in its "
                f"file and would have to be {want[0]} × {want[1]}: it was trained on a model of another size; use one "
                "that was trained on this one"
            )
