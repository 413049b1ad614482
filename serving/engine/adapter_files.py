"""Whether a directory holds a LoRA adapter that can be loaded, seen without loading it."""

from pathlib import Path

from fourfold.prompts.errors import UserError


def check_adapter_files(directory: Path) -> None:
    """See that a directory holds an adapter as PEFT saves it today.

    PEFT itself would take what is no directory for a name on the Hub, and would unpickle what is no safetensors file.

    Raises:
        UserError: a file is missing; the message says which.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (directory / name).is_file():
            raise UserError(f"{directory} is no LoRA adapter: it has no {name}")
