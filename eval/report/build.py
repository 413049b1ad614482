"""Putting runs side by side: headline, what blindness costs, by type, paired comparison, and the samples."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from fourfold.eval.log import write_whole
from fourfold.eval.report.reported import SOURCE, TRAINED_ON, reported
from fourfold.eval.statistics import Paired, paired
from fourfold.prompts.errors import UserError

_THUMBNAIL = 360  # pixels


@dataclass(frozen=True)
class RunFolder:
    """What `fourfold eval run` left in a folder."""

    path: Path
    configuration: dict[str, Any]
    result: dict[str, Any]
    samples: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> "RunFolder":
        """Read it; UserError where it holds no finished run."""
        try:
            result = json.loads((path / "result.json").read_text(encoding="utf-8"))
            samples = json.loads((path / "samples.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"{path} holds no finished run ({Path(error.filename).name} is missing)") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path} holds a damaged run: {error}") from None
        return cls(path, result["configuration"], result, samples)

    @property
    def name(self) -> str:
        """Model (with the first eight digits of its fingerprint), and control and probe where there are any."""
        model, at, fingerprint = self.configuration["model"].partition("@")
        changes = [self.configuration[key] for key in ("control", "probe") if self.configuration[key] != "none"]
        return ", ".join([model + at + fingerprint[:8], *changes])

    @cached_property
    def scores(self) -> dict[str, tuple[float, str]]:
        """Sample id -> headline score 0..1 and image."""
        return {one["id"]: (one["score"], one["image"]) for one in self.samples if one.get("score") is not None}


def compare(first: RunFolder, second: RunFolder) -> tuple[Paired, int] | None:
    """Second against first on the samples that both have, and how many these are; None for different benchmarks."""
    if first.configuration["benchmark"] != second.configuration["benchmark"]:
        return None
    common = [identifier for identifier in first.scores if identifier in second.scores]
    if not common:
        return None
    images = [first.scores[identifier][1] for identifier in common]
    values = [[run.scores[identifier][0] for identifier in common] for run in (first, second)]
    return paired(values[0], values[1], images), len(common)


def build_report(folders: Sequence[Path]) -> dict[str, Any]:
    """The report as one JSON-ready object; `write_report` makes pages of it.

    Raises:
        UserError: a folder holds no finished run, or none is given.
    """
    if not folders:
        raise UserError("name at least one folder of a run")
    runs = [RunFolder.read(folder) for folder in folders]
    return {
        "headline": [_headline(run, runs) for run in runs],
        "comparisons": _comparisons(runs),
        "runs": [_run(run) for run in runs],
        "reported_source": SOURCE,
    }


def _headline(run: RunFolder, runs: Sequence[RunFolder]) -> dict[str, Any]:
    result, benchmark = run.result, run.configuration["benchmark"]
    row = {
        "folder": str(run.path),
        "name": run.name,
        "benchmark": benchmark,
        "model": run.configuration["model"],
        "control": run.configuration["control"],
        "probe": run.configuration["probe"],
        "zero_shot_in_paper": benchmark not in TRAINED_ON,
        **{key: result[key] for key in ("metric", "rule", "value", "low", "high", "n", "clusters", "missing")},
        "parse_failures": result["parse_failures"],
        "refusals": result["refusals"],
        "reported": reported(benchmark),
    }
    if run.configuration["control"] == "none":
        for other in runs:
            same = all(other.configuration[key] == run.configuration[key] for key in ("benchmark", "model", "probe"))
            found = compare(other, run) if same and other.configuration["control"] != "none" else None
            if found:
                row.setdefault("minus", {})[other.configuration["control"]] = asdict(found[0])
    return row


def _comparisons(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    rows = []
    for index, first in enumerate(runs):
        for second in runs[index + 1 :]:
            found = compare(first, second)
            if found:
                outcome, common = found
                left_out = max(len(first.scores), len(second.scores)) - common
                rows.append(
                    {
                        "benchmark": first.configuration["benchmark"],
                        "first": first.name,
                        "second": second.name,
                        "common": common,
                        "left_out": left_out,
                        **asdict(outcome),
                    }
                )
    return rows


def _run(run: RunFolder) -> dict[str, Any]:
    # Failures first, else in the file's order, so that a reader finds samples again.
    ordered = sorted(run.samples, key=lambda one: -1.0 if one.get("score") is None else float(one["score"]))
    return {
        "name": run.name,
        "benchmark": run.configuration["benchmark"],
        "configuration": run.configuration,
        "files": run.result["files"],
        "rules": run.result["rules"],
        "samples": ordered,
    }


def write_report(report: dict[str, Any], out: Path, *, shown: int = 60) -> list[Path]:
    """Write `report.html`, `report.md` and `report.json`; the page shows at most `shown` samples of a run."""
    from fourfold.eval.report.pages import html_page, markdown_page

    written = {
        "report.json": json.dumps(report, indent=1, ensure_ascii=False) + "\n",
        "report.md": markdown_page(report),
        "report.html": html_page(report, shown, thumbnail),
    }
    for name, text in written.items():
        write_whole(out / name, text)
    return [out / name for name in written]


def thumbnail(file: str | None) -> str | None:
    """A small JPEG as a data URI; None where the image is gone."""
    if file is None:
        return None
    try:
        with Image.open(file) as image:
            small = image.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
