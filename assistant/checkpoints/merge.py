"""A checkpoint with an adapter added to its weights: one that needs no PEFT, and that can be quantised as a whole."""

import hashlib
import json
import shutil
from pathlib import Path

from safetensors import SafetensorError

from fourfold.assistant.checkpoints.adapter_files import check_adapter_files, check_adapter_size
from fourfold.assistant.checkpoints.bridge import forget_figures
from fourfold.assistant.checkpoints.cache import check_room, storage_errors
from fourfold.assistant.checkpoints.calibration import CALIBRATION_FILE
from fourfold.assistant.checkpoints.index import write_index
from fourfold.assistant.files import building
from fourfold.prompts.errors import UserError

_NOTE = """
## Adapter
`fourfold merge` added the LoRA adapter {name} (sha256 of its weights `{digest}`) to the language model. What was
measured of the model without it does not hold for this one.
"""


def check_merge(adapter: Path, out: Path) -> None:
    """See what needs no model: that there is an adapter, and that the new directory is none yet.

    Raises:
        UserError: `out` exists, or the adapter lacks a file.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; choose another name or remove it")
    check_adapter_files(adapter)


def merge_adapter(checkpoint: Path, adapter: Path, out: Path) -> Path:
    """Write `checkpoint` with `adapter` added to the language model's weights, summed in float32.

    What lies beside the weights is copied, but for the calibration, which was fitted to other answers.

    Args:
        checkpoint: a MiniGPT-v2 checkpoint.
        adapter: directory of a plain LoRA in PEFT's files.
        out: the new directory, which appears whole or not at all.

    Returns:
        `out`.

    Raises:
        UserError: `out` exists, the adapter does not fit (see `merge_lora`), the weights are quantised or cannot be
            read, or the place cannot be written.
    """
    check_merge(adapter, out)
    check_adapter_size(adapter, checkpoint)
    if "quantization_config" in json.loads((checkpoint / "config.json").read_text(encoding="utf-8")):
        raise UserError(f"{checkpoint} is quantised; merge into what it was made of, and quantise the result")
    from fourfold.assistant.checkpoints.lora import merge_lora
    from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration

    try:
        model = MiniGPTv2ForConditionalGeneration.from_pretrained(checkpoint, dtype="auto", local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"cannot load the weights of {checkpoint}: {error}") from error
    language = model.model.language_model
    # A tensor of the sum is in float32; copying it in rounds it once.
    language.load_state_dict(merge_lora(language.state_dict(), adapter))
    digest = hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    with storage_errors(out.absolute().parent):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        check_room(out.absolute().parent, model.get_memory_footprint() + 50_000_000, f"writing {out.name}")
        try:
            with building(out) as part:
                model.save_pretrained(part)
                for path in checkpoint.iterdir():
                    left_out = path.name == CALIBRATION_FILE or path.name.startswith(("model.", "model-"))
                    if path.is_file() and not left_out and not (part / path.name).exists():
                        shutil.copyfile(path, part / path.name)
                forget_figures(part, {"merged": {"adapter": adapter.name, "sha256": digest}})
                with (part / "README.md").open("a", encoding="utf-8") as card:
                    card.write(_NOTE.format(name=adapter.name, digest=digest))
                write_index(part)
        except SafetensorError as error:  # which hides what the system said in its text
            raise UserError(f"the weights cannot be written to {out}: {error}") from error
    return out
