"""Annotation files for `benchmarks.evaluation`: the data folder's images in the benchmarks' own formats."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fourfold.assistant.training.data import Sample, held_out
from fourfold.eval.log import write_whole
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task

_LARGEST = 0.5  # share of the image; who points at everything must not be right
_FAMILIES = ("refcoco+", "refcocog", "refcoco", "vsr", "okvqa")  # a longer name before its beginning


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
    names = {"existence": "jsonl", "answers": "json", "phrases": "jsonl", "labels": "jsonl", "referents": "json"}
    files = {name: out / f"{name}-{seed}.{suffix}" for name, suffix in names.items()}
    if all(file.exists() for file in files.values()):
        return files  # reading all photos' annotations takes a while
    questions = held_out(Task.VQA, "photos", seed)
    existence = [sample for sample in questions if sample.turns[0].facts["kind"] == "existence"]
    answers = [sample for sample in questions if sample.turns[0].facts["kind"] != "existence"]
    photos = {
        name: _held_out(data / "photos" / f"{name}.jsonl") for name in ("flickr8k_entities", "coco", "voc2012_100")
    }
    content = {
        "existence": [_pope(number, one) for number, one in enumerate(existence)],
        "answers": [_vqa(number, one) for number, one in enumerate(answers)],
        "phrases": photos["flickr8k_entities"],
        "labels": [*photos["coco"], *photos["voc2012_100"]],
        "referents": [row for one in photos["flickr8k_entities"] for row in _referents(one)],
    }
    return {name: _write(file, content[name]) for name, file in files.items()}


def _held_out(path: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [record for record in records if record["split"] != "train"]


def _asked(sample: Sample) -> dict[str, str]:
    """Image and question without its tag, which the wording of the run adds."""
    return {"image": str(sample.image.path), "question": sample.turns[0].question.partition("] ")[2]}


def _pope(number: int, sample: Sample) -> dict[str, Any]:
    asked = _asked(sample)
    return {"question_id": number, "image": asked["image"], "text": asked["question"], "label": sample.turns[0].answer}


def _vqa(number: int, sample: Sample) -> dict[str, Any]:
    # With ten equal answers the official rule would normalise nothing, not even case.
    turn = sample.turns[0]
    answers = [turn.answer] * 9 + ["another answer"]
    return {"question_id": number, **_asked(sample), "answers": answers, "question_type": str(turn.facts["kind"])}


def _referents(photo: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
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


def _write(path: Path, records: list[Any]) -> Path:
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    else:
        text = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
    write_whole(path, text)
    return path
