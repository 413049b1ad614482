"""An adapter at part of its strength: between the model as it was and the model as it was taught."""

import shutil
import tempfile
from pathlib import Path

from fourfold.assistant.refine.registry import Registry
from fourfold.prompts.errors import UserError


def at_strength(registry: Registry, revision: str, strength: float) -> Path:
    """The directory of a revision whose effect is multiplied by `strength`.

    A LoRA layer adds scale * B A x to what its layer computes; B is multiplied, which every program that loads the
    adapter understands.

    Args:
        registry: that knows the revision.
        revision: its id.
        strength: 0..1, in hundredths; 1 is the adapter as it was trained, its own files.

    Raises:
        UserError: there is no such revision, or the strength is out of range.
    """
    directory = registry.path(revision)
    if not 0 <= strength <= 1:
        raise UserError(f"the strength must lie between 0 and 1, not {strength}")
    hundredths = round(100 * strength)
    if hundredths == 100:
        return directory
    target = registry.directory / "derived" / f"{revision}@{hundredths / 100:.2f}"
    if target.is_dir():
        return target
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "adapter_model.safetensors")
    scaled = {
        # Multiplied in float32, so that it is rounded once.
        name: (tensor.float() * hundredths / 100).to(tensor.dtype) if ".lora_B." in name else tensor
        for name, tensor in weights.items()
    }
    target.parent.mkdir(exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=".building-"))
    try:
        save_file(scaled, building / "adapter_model.safetensors", metadata={"format": "pt"})
        shutil.copyfile(directory / "adapter_config.json", building / "adapter_config.json")
        building.chmod(0o755)
        building.rename(target)
    except OSError as error:
        if not target.is_dir():  # else another process was quicker, and made the same
            raise UserError(f"{target} cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target
