"""A model's name on the Hub to its files in the Hub's cache on this machine."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from fourfold.assistant.checkpoints.cache import is_offline
from fourfold.assistant.checkpoints.check import MODEL_TYPE, check_checkpoint
from fourfold.assistant.checkpoints.hub.errors import hub_errors
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.prompts.errors import UserError

_NAME = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# No code and no pickles: the class is ours, and nothing of a checkpoint is run.
_DESCRIPTION = ["*.json", "*.jinja", "*.model", "*.txt", "*.md", "LICENSE*"]
_WEIGHTS = ["*.safetensors"]
_ELSEWHERE = ["*/*", ".*"]
"""Copies for other programs, in folders of the repository."""


def is_hub_name(name: str) -> bool:
    """Whether a name may be one of the Hub's, `org/name` or `org/name@revision`."""
    return _NAME.fullmatch(name) is not None


def checkpoint_name(directory: Path) -> str:
    """A checkpoint directory's name; of one in the Hub's cache, where that is a commit, the repository's."""
    repository = directory.absolute().parent.parent.name
    if directory.absolute().parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return directory.resolve().name


def download(name: str, on_progress: OnProgress, *, any_architecture: bool = False) -> Path:
    """The directory of a model of the Hub; what is not in the Hub's cache yet is downloaded.

    `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` are honoured. Where the Hub cannot be reached, what was
    downloaded before is taken. What the model is, is looked at before its weights are downloaded.

    Args:
        name: `org/name`, or `org/name@revision` for a branch, a tag or a commit.
        on_progress: told how the download goes.
        any_architecture: as `check_checkpoint`.

    Raises:
        UserError: there is no such model, it is not to be had here, or not one that can be run.
    """
    from huggingface_hub import snapshot_download

    matched = _NAME.fullmatch(name)
    assert matched is not None, name
    wanted: dict[str, Any] = {
        "repo_id": matched["repo"],
        "revision": matched["revision"],
        "ignore_patterns": _ELSEWHERE,
        "local_files_only": is_offline(),
        "tqdm_class": _bar(f"Downloading {matched['repo']} (MB)", on_progress),
    }
    with hub_errors(name, f"downloading {name}, which is no directory here"):
        directory = Path(snapshot_download(**wanted, allow_patterns=_DESCRIPTION))
        _check_kind(name, directory, any_architecture)
        # The same commit, whatever was pushed meanwhile.
        wanted["revision"] = directory.name
        known = _blobs(directory)
        directory = Path(snapshot_download(**wanted, allow_patterns=[*_DESCRIPTION, *_WEIGHTS]))
    _check_arrived(name, directory, known)
    if not any(directory.glob("*.safetensors")):
        raise UserError(f"{name} has no *.safetensors weights; fourfold reads no other kind, such as *.bin")
    check_checkpoint(directory, any_architecture=any_architecture)
    return directory


def _blobs(snapshot: Path) -> set[str]:
    """What the cache holds of a repository, by the digest that the Hub gave for it."""
    return {path.name for path in (snapshot.parent.parent / "blobs").glob("*")}


def _check_arrived(name: str, snapshot: Path, known: set[str]) -> None:
    """See that weights which have just arrived are those that the Hub announced: it names large files by SHA-256.

    Raises:
        UserError: one is not; it was removed.
    """
    for path in snapshot.glob("*.safetensors"):
        blob = path.resolve()  # where links are not to be had, the cache keeps no digest either
        if blob.name in known or not _SHA256.fullmatch(blob.name):
            continue
        with blob.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != blob.name:
            blob.unlink()
            path.unlink()
            raise UserError(
                f"{path.name} of {name} is not what the Hub announced (sha256 {found[:12]}…, expected "
                f"{blob.name[:12]}…); it was removed. Download it again, or check HF_ENDPOINT"
            )


def _check_kind(name: str, directory: Path, any_architecture: bool) -> None:
    try:
        kind = json.loads((directory / "config.json").read_text(encoding="utf-8")).get("model_type")
    except FileNotFoundError:
        what = "a LoRA adapter, not a model" if (directory / "adapter_config.json").is_file() else "no model"
        raise UserError(f"{name} is {what}: it has no config.json") from None
    except (ValueError, AttributeError):
        raise UserError(f"the config.json of {name} is damaged") from None
    if kind != MODEL_TYPE and not any_architecture:
        raise UserError(
            f"{name} is a model of type {kind!r}; fourfold runs {MODEL_TYPE!r} checkpoints, and asks others where they "
            "are served (--endpoint)"
        )


def _bar(stage: str, on_progress: OnProgress) -> type:
    from tqdm.auto import tqdm

    seen = {"done": 0, "total": 0}

    class Bar(tqdm):
        """Tells instead of drawing; the Hub makes several, for the same bytes as they arrive and as they are written"""

        def display(self, *args: object, **options: object) -> None:
            if self.unit == "B" and self.total:
                seen["done"], seen["total"] = max(seen["done"], int(self.n)), max(seen["total"], int(self.total))
                megabytes = seen["total"] // 10**6
                if megabytes:
                    on_progress(Progress(stage, min(seen["done"] // 10**6, megabytes), megabytes))

        def close(self) -> None:
            self.disable = True

    return Bar
