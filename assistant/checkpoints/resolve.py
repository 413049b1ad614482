"""From the name that somebody gives a model to a checkpoint directory on this machine."""

import contextlib
import hashlib
import os
import shutil
import time
from pathlib import Path

from fourfold.assistant.checkpoints.bridge import BRIDGE, BRIDGE_FILES, LEARNT_BESIDE, check_bridge, read_geometry
from fourfold.assistant.checkpoints.cache import cache_directory, locked, storage_errors
from fourfold.assistant.checkpoints.check import check_checkpoint
from fourfold.assistant.checkpoints.hub.download import download, is_hub_name
from fourfold.assistant.progress import OnProgress, progress_bar
from fourfold.prompts.chat import load_template
from fourfold.prompts.errors import UserError

DEFAULT_MODEL = "fourfold-mini"
BASE_MODEL = "fourfold-mini-base"
# Sources that decide what is in an assembled directory: when one changes, what was assembled before no longer counts.
_RECIPE = ("mini.py", "bridge.py", "clip_onnx.py", "index.py", "llama_gguf.py", "lora.py", "positions.py", "weights.py")
_STALE_AFTER = 3600
"""Seconds after which an older assembly that nobody has used goes; sooner, it may still be in use."""


def resolve_model(
    model: str | None = None, on_progress: OnProgress | None = None, *, any_architecture: bool = False
) -> Path:
    """The checkpoint directory that a model's name stands for.

    Args:
        model: None or "fourfold-mini" for the default model, "fourfold-mini-base" for it before any training of the
            bridge: both are assembled in the cache when first asked for, from weights that are downloaded once.
            Otherwise a checkpoint directory, or a model of the Hugging Face Hub, `org/name` or `org/name@revision`.
        on_progress: told how downloads and assembling go; by default they are drawn on stderr.
        any_architecture: take a directory that the engine cannot run, for whoever only trains or names it.

    Returns:
        The directory; `checkpoint_name` is the model's name.

    Raises:
        UserError: there is no such model, the directory is not a usable checkpoint, or the default model cannot be
            put together here; the message says what to do.
    """
    if model in (None, DEFAULT_MODEL, BASE_MODEL):
        return _assembled(model or DEFAULT_MODEL, on_progress)
    directory = Path(model).expanduser()
    if model and directory.is_dir():
        check_checkpoint(directory, any_architecture=any_architecture)
        return directory
    if directory.is_file():
        raise UserError(
            f"{model} is a file; give a checkpoint directory, or make one of an original release by `fourfold convert`"
        )
    if model and is_hub_name(model):
        with progress_bar(on_progress) as tell:
            return download(model, tell, any_architecture=any_architecture)
    raise UserError(
        f"no model is called {model!r}: give {DEFAULT_MODEL}, {BASE_MODEL}, a directory, or org/name of the Hub"
    )


def assembled_path(name: str) -> Path:
    """Where the default model `name` lies once it is assembled, whether it is there or not.

    The path depends on everything that goes into the model, so that a new bridge or new code makes a new one.

    Raises:
        UserError: the default model is asked for, and its bridge is not complete.
    """
    digest = hashlib.sha256()
    here = Path(__file__).parent
    sources = [here / source for source in _RECIPE]
    sources += sorted((here.parent / "model").glob("*.py"))
    if name == DEFAULT_MODEL:
        check_bridge(BRIDGE)
        sources += [BRIDGE / file for file in (*BRIDGE_FILES, *LEARNT_BESIDE) if (BRIDGE / file).is_file()]
    for source in sources:
        digest.update(source.name.encode() + b"\0" + hashlib.sha256(source.read_bytes()).digest())
    digest.update(load_template("chatml").encode())
    return cache_directory() / "models" / f"{name}-{digest.hexdigest()[:12]}" / name


def _assembled(name: str, on_progress: OnProgress | None) -> Path:
    directory = assembled_path(name)
    if not _is_usable(directory):
        with progress_bar(on_progress) as tell:
            _assemble(name, directory, tell)
    with contextlib.suppress(OSError):  # a cache that is shared and read-only has nobody who tidies it
        os.utime(directory.parent)
    return directory


def _assemble(name: str, directory: Path, on_progress: OnProgress) -> None:
    from fourfold.assistant.checkpoints.mini import assemble

    bridge = BRIDGE if name == DEFAULT_MODEL else None
    with locked(directory.parent, on_progress):
        if _is_usable(directory):  # another process was quicker
            return
        # What a killed process left half built, or something damaged since.
        shutil.rmtree(directory.parent, ignore_errors=True)
        assemble(directory, bridge=bridge, on_progress=on_progress, **(read_geometry(bridge) if bridge else {}))
        _remove_stale(directory)


def _is_usable(directory: Path) -> bool:
    with storage_errors(cache_directory()):
        if not directory.is_dir():
            return False
        try:
            check_checkpoint(directory)
        except UserError:
            return False
        return True


def _remove_stale(directory: Path) -> None:
    """Remove older assemblies of the same model that nobody has asked for in a while."""
    for other in directory.parent.parent.glob(f"{directory.name}-*/{directory.name}"):
        # A base model's folder also begins with the default model's name, but holds another directory.
        if other != directory and time.time() - other.parent.stat().st_mtime > _STALE_AFTER:
            shutil.rmtree(other.parent, ignore_errors=True)
