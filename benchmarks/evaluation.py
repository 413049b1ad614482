"""What `fourfold eval` says about a model: the COCO sample and the photos' held-out split, with controls and probes.

    python -m benchmarks.evaluation --out out/evaluation

Every part is an ordinary run of `fourfold eval run`, `converse` or `beaf` in a folder of its own, so a run that was
stopped goes on with the same command and asks nothing twice. `OUT/evaluation.json` holds the figures,
`OUT/evaluation.md` the tables, `OUT/report.html` the samples. The data come from `FOURFOLD_DATA`.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.evaluation_files import photo_files, sample_files
from benchmarks.evaluation_table import evaluation_tables
from fourfold.assistant.training.data.sample import photos_directory
from fourfold.eval.answerer import Answerer
from fourfold.eval.asking import Control
from fourfold.eval.beaf import run_beaf
from fourfold.eval.conversation import run_conversation
from fourfold.eval.log import write_whole
from fourfold.eval.probes import Probe
from fourfold.eval.prompting import resolve_config
from fourfold.eval.report import build_report, write_report
from fourfold.eval.runner import RunOptions, run_benchmark

PARTS = ("sample", "photos", "probes", "beaf", "converse")
_CONTROLS = (Control.NONE, Control.BLIND, Control.WRONG_IMAGE, Control.TEXT_ONLY)
_PHOTOS = (("existence", "pope"), ("answers", "vqav2"), ("phrases", "phrase-grounding"), ("labels", "detection"))


@dataclass(frozen=True)
class Plan:
    """One run of a benchmark: what it is about, in which folder, and whether with the right image."""

    name: str
    benchmark: str
    annotations: Path
    images: Path
    limit: int | None
    control: Control = Control.NONE
    probe: Probe = Probe.NONE

    def options(self, answerer: Answerer, out: Path, seed: int) -> RunOptions:
        """As the runner takes it; each run has a folder of its own."""
        marks = [mark for mark in (self.control, self.probe) if mark != "none"]
        return RunOptions(
            benchmark=self.benchmark,
            images=self.images,
            annotations=self.annotations,
            out=out / "-".join([self.name, *marks]),
            answerer=answerer,
            limit=self.limit,
            control=self.control,
            probe=self.probe,
            manner=resolve_config(None, self.benchmark),
            seed=seed,
        )


def plans(part: str, data: Path, out: Path, limit: int, seed: int) -> Iterator[Plan]:
    """The runs of a part: the benchmarks' questions with the image, and without it or with another one."""
    if part == "sample":
        for family, file in sample_files(data, out / "annotations").items():
            for control in _CONTROLS:
                yield Plan(f"sample-{family}", family, file, data / "coco_sample", None, control)
        return
    files, images = photo_files(data, out / "annotations", seed), data / "photos"
    if part == "photos":
        for name, benchmark in _PHOTOS:
            for control in _CONTROLS:
                yield Plan(f"photos-{name}", benchmark, files[name], images, limit, control)
    elif part == "probes":
        for name, benchmark in _PHOTOS[:2]:
            for probe in (Probe.PATCH_SHUFFLE, Probe.DISTRACTOR):
                yield Plan(f"photos-{name}", benchmark, files[name], images, limit, probe=probe)


def run_part(part: str, answerer: Answerer, data: Path, out: Path, limit: int, seed: int) -> dict[str, Any]:
    """Run a part, or what is left of it; its figures by the name of the run."""
    if part == "beaf":
        boxes, manner = photo_files(data, out / "annotations", seed)["labels"], resolve_config(None, "pope")
        told = run_beaf(answerer, boxes, data / "photos", out / "beaf", manner=manner, limit=limit, seed=seed)
        return {"beaf": told}
    if part == "converse":
        files = photo_files(data, out / "annotations", seed)
        talks = (
            Plan("converse-referents", "refcoco", files["referents"], data / "photos", limit),
            Plan("converse-answers", "vqav2", files["answers"], data / "photos", limit),
        )
        return {talk.name: run_conversation(talk.options(answerer, out, seed)) for talk in talks}
    found = {}
    for plan in plans(part, data, out, limit, seed):
        options = plan.options(answerer, out, seed)
        print(f"{options.out.name}", file=sys.stderr, flush=True)
        run_benchmark(options)
        found[options.out.name] = json.loads((options.out / "result.json").read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Run all parts, or those named, and write figures, tables and the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint directory or name (served name with --endpoint)")
    parser.add_argument("--endpoint", action="append", default=[], help="ask there instead of in this process")
    parser.add_argument("--limit", type=int, default=100, help="questions a run on photos")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"), help="folder of these runs")
    given = parser.parse_args()
    chosen = given.parts.split(",")
    if unknown := sorted(set(chosen) - set(PARTS)):
        parser.error(f"no part is called {unknown[0]!r}; there are: {', '.join(PARTS)}")

    from fourfold.assistant.checkpoints.resolve import resolve_model

    data = photos_directory().parent
    checkpoint = None if given.endpoint else resolve_model(given.model)
    with Answerer(
        endpoints=tuple(given.endpoint), checkpoint=checkpoint, model=given.model if given.endpoint else None
    ) as answerer:
        measured = {
            "model": answerer.identity(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "limit": given.limit,
            "seed": given.seed,
            "parts": {
                part: run_part(part, answerer, data, given.out, given.limit, given.seed)
                for part in PARTS
                if part in chosen
            },
        }
    runs = [given.out / name for part in ("sample", "photos", "probes") for name in measured["parts"].get(part, {})]
    comparisons = []
    if runs:
        report = build_report(runs)
        comparisons = report["headline"]
        write_report(report, given.out, shown=12)
    measured["minus"] = {Path(row["folder"]).name: row.get("minus", {}) for row in comparisons}
    tables = evaluation_tables(measured)
    write_whole(given.out / "evaluation.json", json.dumps(measured, indent=1, ensure_ascii=False) + "\n")
    write_whole(given.out / "evaluation.md", tables)
    print(tables)


if __name__ == "__main__":
    main()
