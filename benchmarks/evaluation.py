"""What `fourfold eval` says about a model: the COCO sample and the photos' held-out split, with controls and probes.

    python -m benchmarks.evaluation --out out/evaluation

Every part is an ordinary run of `fourfold eval run`, `converse` or `beaf` in a folder of its own, so a run that was
stopped goes on with the same command and asks nothing twice. `OUT/evaluation.json` holds the figures,
`OUT/evaluation.md` the tables, `OUT/report.html` the samples. The data come from `FOURFOLD_DATA`.
"""

import argparse
import contextlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.files import write_text
from fourfold.assistant.training.data import held_out
from fourfold.assistant.training.data.sample import photos_directory
from fourfold.eval.controls import Control, Perturbation
from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.model import EngineModel, Model
from fourfold.eval.predictions import read_json
from fourfold.eval.prompting import resolve_config
from fourfold.eval.report.render import figure, markdown_table, signed
from fourfold.eval.report.runs import build_report, write_report
from fourfold.eval.tasks.beaf import run_beaf
from fourfold.eval.tasks.benchmark_run import RunOptions, run_benchmark
from fourfold.eval.tasks.conversation import run_conversation
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task

PARTS = ("sample", "photos", "probes", "beaf", "converse")
_CONTROLS = (Control.NONE, Control.BLIND, Control.WRONG_IMAGE, Control.TEXT_ONLY)
_PHOTOS = (("existence", "pope"), ("answers", "vqav2"), ("phrases", "phrase-grounding"), ("labels", "detection"))
_LARGEST = 0.5  # share of the image; who points at everything must not be right
_FAMILIES = ("refcoco+", "refcocog", "refcoco", "vsr", "okvqa")  # a longer name before its beginning
_TITLES = {
    "sample-refcoco": "RefCOCO val + testB",
    "sample-refcoco+": "RefCOCO+ val + testB",
    "sample-refcocog": "RefCOCOg val + test",
    "sample-vsr": "VSR",
    "sample-okvqa": "OK-VQA",
    "photos-existence": "is it there (as POPE asks)",
    "photos-answers": "short answers",
    "photos-phrases": "phrase grounding",
    "photos-labels": "detection",
    "beaf": "Before and after an object is painted over",
    "converse-referents": "A thing described again",
    "converse-answers": "Doubted, given a hint, told",
}
_MARKS = ("", "-blind", "-wrong-image", "-text-only")
_PROBES = ("-patch-shuffle", "-distractor")


def plans(part: str, model: Model, data: Path, out: Path, limit: int, seed: int) -> Iterator[RunOptions]:
    """The runs of a part, each in a folder of its own: with the image, and without it or with another one."""

    def plan(
        name: str,
        benchmark: str,
        annotations: Path,
        control: Control = Control.NONE,
        perturbation: Perturbation = Perturbation.NONE,
    ) -> RunOptions:
        marks = [mark for mark in (control, perturbation) if mark != "none"]
        return RunOptions(
            benchmark=benchmark,
            images=data / ("coco_sample" if part == "sample" else "photos"),
            annotations=annotations,
            out=out / "-".join([name, *marks]),
            model=model,
            limit=None if part == "sample" else limit,
            control=control,
            perturbation=perturbation,
            prompting=resolve_config(None, benchmark),
            seed=seed,
        )

    if part == "sample":
        for family, file in sample_files(data, out / "annotations").items():
            for control in _CONTROLS:
                yield plan(f"sample-{family}", family, file, control)
        return
    files = photo_files(data, out / "annotations", seed)
    if part == "photos":
        for name, benchmark in _PHOTOS:
            for control in _CONTROLS:
                yield plan(f"photos-{name}", benchmark, files[name], control)
    elif part == "probes":
        for name, benchmark in _PHOTOS[:2]:
            for one in (Perturbation.PATCH_SHUFFLE, Perturbation.DISTRACTOR):
                yield plan(f"photos-{name}", benchmark, files[name], perturbation=one)
    elif part == "beaf":
        yield plan("beaf", "pope", files["labels"])
    elif part == "converse":
        yield plan("converse-referents", "refcoco", files["referents"])
        yield plan("converse-answers", "vqav2", files["answers"])


def run_part(part: str, runs: Iterable[RunOptions]) -> dict[str, Any]:
    """Run a part, or what is left of it; its figures by the name of the run."""
    found = {}
    for options in runs:
        name = options.out.name
        print(name, file=sys.stderr, flush=True)
        if part == "beaf":
            found[name] = run_beaf(options)
        elif part == "converse":
            found[name] = run_conversation(options)
        else:
            run_benchmark(options)
            found[name] = json.loads((options.out / "result.json").read_text(encoding="utf-8"))
    return found


def run_served(runs: Mapping[str, Sequence[RunOptions]], directory: Path, out: Path) -> dict[str, Any]:
    """The same runs, part by part, at `fourfold serve` in a child process, and how many of its answers are the same.

    Returns:
        By the name of the run: what `compare_answers` says of its folders, and the served `figures`.
    """
    from benchmarks.speed.servers import Server

    out.mkdir(parents=True, exist_ok=True)
    found = {}
    with contextlib.closing(Server("fourfold", directory, out)) as server:
        # The plain name: neither the eyes nor what was corrected answers.
        model = EndpointModel([str(server.client.base_url)], server.called)
        for part, plain in runs.items():
            asked = [replace(options, model=model, out=out / options.out.name) for options in plain]
            figures = run_part(part, asked)
            for here, there in zip(plain, asked, strict=True):
                name = here.out.name
                found[name] = {**compare_answers(here.out, there.out), "figures": figures[name]}
    return found


def compare_answers(here: Path, there: Path) -> dict[str, Any]:
    """How many `answers` two runs' folders have, how many are the `same`, and the `others`: [sample, here, there]."""
    ours, theirs = _answers(here), _answers(there)
    others = [[sample, ours.get(sample), theirs.get(sample)] for sample in sorted(ours.keys() | theirs.keys())]
    answers = len(others)
    others = [one for one in others if one[1] is None or one[1] != one[2]]
    return {"answers": answers, "same": answers - len(others), "others": others}


def _answers(folder: Path) -> dict[str, str | None]:
    """What a run's log says, sample by sample; None for what failed."""
    with (folder / "answers.jsonl").open(encoding="utf-8") as file:
        return {line["sample"]: line.get("answer") for line in map(json.loads, file)}


def sample_files(data: Path, out: Path) -> dict[str, Path]:
    """The records that come with the COCO sample, a file a benchmark: RefCOCO / + / g, VSR, OK-VQA.

    OK-VQA's records hold scores instead of ten answers (1 or 0.6). Four or two of ten annotators with that answer, the
    others with answers that nobody gives, have the same scores.

    Raises:
        UserError: the sample is not in the data folder.
    """
    path = data / "coco_sample" / "manifest.json"
    if not path.is_file():
        raise UserError(f"there is no COCO sample at {path}; set FOURFOLD_DATA to the folder that holds coco_sample/")
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in json.loads(path.read_text(encoding="utf-8")):
        for one in entry["records"]:
            family = next(name for name in _FAMILIES if one["benchmark"].startswith(name))
            record = one["record"]
            if family == "okvqa":
                record = _okvqa(record)
            elif family == "vsr":
                record = {name: record[name] for name in ("image", "caption", "label", "relation")}
            if family != "vsr" or record not in found[family]:  # VSR's random and zero-shot splits share statements
                found[family].append(record)
    return {family: _write(out / f"{family}.json", records) for family, records in sorted(found.items())}


def _okvqa(record: Mapping[str, Any]) -> dict[str, Any]:
    answers = [answer for answer, score in record["label"].items() for _ in range(4 if score == 1 else 2)]
    others = [f"another answer {number}" for number in range(10 - len(answers))]
    return {
        "question_id": record["question_id"],
        "image_id": record["img_id"],
        "question": record["sent"],
        "answers": answers + others,
    }


def photo_files(data: Path, out: Path, seed: int) -> dict[str, Path]:
    """The photos' held-out split: existence as POPE asks, short answers, phrases and labels with boxes, referents.

    Raises:
        UserError: the photos are not in the data folder.
    """
    names = ("existence", "answers", "phrases", "labels", "referents")
    files = {name: out / f"{name}-{seed}.json" for name in names}
    if all(file.exists() for file in files.values()):
        return files  # reading all photos' annotations takes a while
    content: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for sample in held_out(Task.VQA, "photos", seed):
        turn, image = sample.turns[0], str(sample.image.path)
        kind, asked = str(turn.facts["kind"]), turn.question.partition("] ")[2]  # the wording of the run adds the tag
        rows = content["existence" if kind == "existence" else "answers"]
        if kind == "existence":
            about: dict[str, Any] = {"text": asked, "label": turn.answer}
        else:
            # With ten equal answers the official rule would normalise nothing, not even case.
            answers = [turn.answer] * 9 + ["another answer"]
            about = {"question": asked, "answers": answers, "question_type": kind}
        rows.append({"question_id": len(rows), "image": image, **about})
    for name, source in (("phrases", "flickr8k_entities"), ("labels", "coco"), ("labels", "voc2012_100")):
        records = read_json(data / "photos" / f"{source}.jsonl", "photo annotations")
        content[name] += [record for record in records if record["split"] != "train"]
    content["referents"] = [row for photo in content["phrases"] for row in referents(photo)]
    return {name: _write(file, content[name]) for name, file in files.items()}


def referents(photo: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Things with one box that captions name in three ways or more, in RefCOCO's format; not what fills the image."""
    by_entity: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for phrase in photo["phrases"]:
        if len(phrase["boxes"]) == 1:
            by_entity[phrase["entity"]].setdefault(phrase["phrase"].lower(), phrase["boxes"][0])
    for entity, phrases in by_entity.items():
        boxes = {tuple(box) for box in phrases.values()}
        if len(phrases) < 3 or len(boxes) != 1:
            continue
        x1, y1, x2, y2 = boxes.pop()
        if (x2 - x1) * (y2 - y1) > _LARGEST * photo["width"] * photo["height"]:
            continue
        for words in phrases:
            yield {
                "img_id": f"{photo['id']}_{entity}",
                "image": photo["image"],
                "sents": words,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "width": photo["width"],
                "height": photo["height"],
            }


def _write(path: Path, content: Any) -> Path:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path


def evaluation_tables(measured: Mapping[str, Any]) -> str:
    """The content of `evaluation.json` as Markdown: a table a part."""
    parts, minus = measured["parts"], measured["minus"]
    lines = [
        f"Model `{measured['model']}`, measured {measured['date'][:10]}; MiniGPT-v2's prompts, greedy, official rules, "
        f"seed {measured['seed']}. Percent; in brackets the 95 % interval, clustered by image.",
    ]
    for part, title in (("sample", "COCO sample"), ("photos", "Photos, held-out split")):
        if part in parts:
            lines += ["", f"**{title}**", "", *_with_controls(parts[part], minus)]
    if "photos-labels" in parts.get("photos", {}):
        lines += ["", *_boxes(parts["photos"])]
    if "probes" in parts:
        runs = {**parts.get("photos", {}), **parts["probes"]}
        rows = [
            [_TITLES[name], run["n"], *(figure(runs.get(name + probe)) for probe in ("", *_PROBES))]
            for name, run in runs.items()
            if name + _PROBES[0] in runs and name in _TITLES
        ]
        heads = ["questions", "n", "untouched", "image in shuffled pieces", "after a wrong claim"]
        lines += ["", "**Probes**", "", *markdown_table(heads, rows, numbers=[1])]
    for name, result in {**parts.get("beaf", {}), **parts.get("converse", {})}.items():
        rows = [[told, figure(value), value["n"]] for told, value in result["figures"].items()]
        lines += ["", f"**{_TITLES[name]}**", "", *markdown_table(["figure", "percent", "n"], rows, numbers=[2])]
    if "served" in measured:
        lines += ["", "**Through `fourfold serve`**", "", *_served(parts, measured["served"])]
    return "\n".join(lines) + "\n"


def _served(parts: Mapping[str, Any], served: Mapping[str, Any]) -> list[str]:
    """Answers of the server beside those in process, all controls and probes of a benchmark together."""
    rows = []
    for part, runs in parts.items():
        for name in filter(_TITLES.__contains__, runs if part != "probes" else ()):
            members = [served[name + mark] for mark in (*_MARKS, *_PROBES) if name + mark in served]
            total, same = (sum(one[key] for one in members) for key in ("answers", "same"))
            first = (figure(_first(result)) for result in (runs[name], served[name]["figures"]))
            rows.append([_TITLES[name], total, same, *first])
    heads = ["questions", "answers, with controls and probes", "the same", "first figure in process", "served"]
    return markdown_table(heads, rows, numbers=[1, 2])


def _first(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figure that a result begins with."""
    return next(iter(result["figures"].values())) if "figures" in result else result


def _with_controls(runs: Mapping[str, Any], minus: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, run in runs.items():
        if name in _TITLES:
            cells = [figure(runs.get(name + control)) for control in _MARKS]
            gain = minus.get(name, {}).get("blind")
            sure = gain and gain["difference"]["low"] is not None
            rows.append([
                f"{_TITLES[name]}, {run['metric']} (`{run['rule']}`)", run["n"], *cells,
                signed(gain) + (f", p {gain['p_value']:.3f}" if sure else ""),
            ])  # fmt: skip
    heads = ["with the image", "no image", "wrong image", "question alone", "image − no image"]
    return markdown_table(["questions", "n", *heads], rows, numbers=[1])


def _boxes(runs: Mapping[str, Any]) -> list[str]:
    """Precision and recall where several boxes may be written."""
    rows = []
    for name, ending in (("photos-phrases", ""), ("photos-labels", " over all boxes")):
        for mark, title in zip(_MARKS[:3], ("with the image", "no image", "wrong image"), strict=True):
            if run := runs.get(name + mark):
                found = next(iter(run["rules"].values()))["sub_scores"]
                cells = (figure(found[kind + ending]) for kind in ("precision", "recall", "f1"))
                rows.append([f"{_TITLES[name]}, {title}", *cells])
    return markdown_table(["boxes at IoU 0.5", "precision", "recall", "F1"], rows)


def main() -> None:
    """Run all parts, or those named, and write figures, tables and the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint directory or name (served name with --endpoint)")
    parser.add_argument("--endpoint", action="append", default=[], help="ask there instead of in this process")
    parser.add_argument("--limit", type=int, default=100, help="questions a run on photos")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--served", action="store_true", help="also through `fourfold serve`, and compare the answers")
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"), help="folder of these runs")
    given = parser.parse_args()
    chosen = given.parts.split(",")
    if unknown := sorted(set(chosen) - set(PARTS)):
        parser.error(f"no part is called {unknown[0]!r}; there are: {', '.join(PARTS)}")
    if given.served and given.endpoint:
        parser.error("--served starts a server of its own; leave --endpoint out")
    data = photos_directory().parent
    model: Model = (
        EndpointModel(given.endpoint, given.model) if given.endpoint else EngineModel(resolve_model(given.model))
    )
    planned = {
        part: list(plans(part, model, data, given.out, given.limit, given.seed)) for part in PARTS if part in chosen
    }
    with model:
        measured = {
            "model": model.identity,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "limit": given.limit,
            "seed": given.seed,
            "parts": {part: run_part(part, runs) for part, runs in planned.items()},
        }
    if given.served and isinstance(model, EngineModel):
        measured["served"] = run_served(planned, model.checkpoint, given.out / "served")
    runs = [given.out / name for part in ("sample", "photos", "probes") for name in measured["parts"].get(part, {})]
    comparisons = []
    if runs:
        report = build_report(runs)
        comparisons = report["headline"]
        write_report(report, given.out, shown=12)
    measured["minus"] = {Path(row["folder"]).name: row.get("minus", {}) for row in comparisons}
    tables = evaluation_tables(measured)
    _write(given.out / "evaluation.json", measured)
    write_text(given.out / "evaluation.md", tables)
    print(tables)


if __name__ == "__main__":
    main()
