"""A checkpoint to the Hub, in one commit."""

from pathlib import Path

from fourfold.assistant.checkpoints.cache import is_offline
from fourfold.assistant.checkpoints.check import check_checkpoint
from fourfold.assistant.checkpoints.hub.errors import hub_errors
from fourfold.prompts.errors import UserError

_PUSHED = ("*.json", "*.jinja", "*.model", "*.txt", "*.py", "*.safetensors", "LICENSE*")


def pushed_files(directory: Path) -> list[Path]:
    """The files of a checkpoint that go to the Hub beside the card; nothing hidden, nothing of a folder below.

    Raises:
        UserError: the directory is no whole checkpoint.
    """
    check_checkpoint(directory)
    return sorted({path for kind in _PUSHED for path in directory.glob(kind) if not path.name.startswith(".")})


def push(directory: Path, repository: str, card: str, *, private: bool = False) -> str:
    """Put a checkpoint and its card on the Hub, all of it or nothing; the repository is made if need be.

    Args:
        directory: the checkpoint.
        repository: `org/name`.
        card: its `README.md`.
        private: of a repository that is made; one that exists stays what it is.

    Returns:
        The address of the commit.

    Raises:
        UserError: the directory is no whole checkpoint, or the Hub is not there or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = pushed_files(directory)
    if is_offline():
        raise UserError("FOURFOLD_OFFLINE is set; unset it to push")
    api = HfApi()
    operations = [CommitOperationAdd("README.md", card.encode())]
    operations += [CommitOperationAdd(path.name, path) for path in files]
    with hub_errors(repository, f"pushing {repository}"):
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(repository, operations, commit_message=f"Upload {directory.name} with fourfold")
    return commit.commit_url
