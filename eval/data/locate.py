"""What `--data` names: a table, a folder with official files, or a data set of the Hub that is on this machine."""

import re
from dataclasses import dataclass
from pathlib import Path

from fourfold.eval.data.table import is_table
from fourfold.prompts.errors import UserError

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_JSON = frozenset({".json", ".jsonl"})


@dataclass(frozen=True)
class Located:
    """The files of a benchmark: its annotations (or table), its questions where these are apart, its images."""

    annotations: Path
    questions: Path | None = None
    images: Path | None = None


def locate(data: str, *, download: bool = False) -> Located:
    """Find the files that `data` names; the network is used only to `download` a data set of the Hub.

    Args:
        data: a path (TSV, Parquet, Arrow, JSON, or a folder of these), or `owner/name` of the Hub.
        download: fetch it from the Hub if it is not on this machine.

    Raises:
        UserError: there is nothing, or a folder holds several files any of which could be meant.
    """
    path = Path(data)
    if not path.exists():
        path = _from_hub(data, download)
    elif download:
        raise UserError(f"{data} is on this machine already; leave --download out")
    if path.is_file() or is_table(path):
        return Located(path)
    files = sorted(one for one in path.rglob("*") if one.suffix in _JSON)
    questions = [one for one in files if "question" in one.name.lower() and "annotation" not in one.name.lower()]
    others = [one for one in files if one not in questions]
    if len(others) == 1 and len(questions) <= 1:
        return Located(others[0], questions[0] if questions else None, path)
    if not others and len(questions) == 1:
        return Located(questions[0], None, path)
    if not files:
        raise UserError(f"{path} holds no data: expected a TSV, Parquet or Arrow table, or a JSON file")
    names = ", ".join(str(one.relative_to(path)) for one in files[:6])
    raise UserError(f"{path} holds {len(files)} JSON files; name one of them with --data or --annotations: {names}")


def _from_hub(name: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if not _REPOSITORY.fullmatch(name) or Path(name).suffix in {".tsv", ".parquet", ".json", ".jsonl", ".arrow"}:
        raise UserError(f"no data at {name}")
    try:
        return Path(snapshot_download(name, repo_type="dataset", local_files_only=not download))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        if download:
            raise UserError(f"{name} could not be fetched from the Hub: {str(error).splitlines()[0]}") from None
        raise UserError(
            f"no data at {name}, nor a data set of that name in the Hub's cache; --download fetches it"
        ) from None
