"""Variants of a recipe trained for equal steps on equal data, and their table."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourfold.assistant.training.recipe import Recipe, read_yaml, recipe_of
from fourfold.assistant.training.start import load_base
from fourfold.assistant.training.trainer import Report, Trainer
from fourfold.prompts.errors import UserError


def read_variants(path: Path) -> dict[str, Recipe]:
    """The recipes of an ablation file: `recipe`, a whole recipe, and `variants`, what each of them changes.

    Nested settings are changed one by one: `{lora: {rank: 4}}` keeps the adapter's other settings.

    Raises:
        UserError: the file is not of this form.
    """
    values = read_yaml(path)
    if set(values) != {"recipe", "variants"} or not isinstance(values["variants"], Mapping):
        raise UserError(f"{path} must hold exactly `recipe` and `variants`, a mapping of names to changes")
    return {
        str(name): recipe_of(_merged(values["recipe"], changes or {}), f"{path}, {name}")
        for name, changes in values["variants"].items()
    }


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, change in changes.items():
        old = merged.get(name)
        merged[name] = _merged(old, change) if isinstance(old, Mapping) and isinstance(change, Mapping) else change
    return merged


def run_ablations(
    config: Path,
    out: Path,
    base: str | None = None,
    features: Path | None = None,
    only: Sequence[str] | None = None,
    max_minutes: float | None = None,
    report: Report = lambda line: None,
) -> Path:
    """Train every variant in `out`/name, and write `out`/table.json and table.md after each.

    Variants that are finished there already are not trained again.

    Args:
        config: file of variants.
        out: directory.
        base: checkpoint in place of the recipes' base.
        features: directory of cached features, which variants of one image tower share; None computes them for each.
        only: names of variants; None for all.
        max_minutes: start no variant after so long, and stop the one that runs.
        report: is given every line of every log.

    Returns:
        The Markdown table.

    Raises:
        UserError: the file is not of the right form, or a name in `only` is unknown.
    """
    variants = read_variants(config)
    if unknown := set(only or ()) - set(variants):
        raise UserError(f"no variant is called {sorted(unknown)[0]!r}; there are: {', '.join(variants)}")
    began = time.monotonic()
    rows: dict[str, dict[str, Any]] = {}
    for name, recipe in variants.items():
        if only and name not in only:
            continue
        left = None if max_minutes is None else max_minutes - (time.monotonic() - began) / 60
        if left is not None and left <= 0:
            break
        rows[name] = _run(name, recipe, out, base, features, left, report)
        _write(out, rows)
    return out / "table.md"


def _run(
    name: str, recipe: Recipe, out: Path, base: str | None, features: Path | None, left: float | None, report: Report
) -> dict[str, Any]:
    from fourfold.assistant.training.evaluator import Evaluator

    sources = (["photos"] if recipe.mixture.photos else []) + (["scenes"] if recipe.mixture.scenes else [])
    model, processor = load_base(recipe, base)
    trainer = Trainer(
        recipe,
        model,
        processor,
        out / name,
        features,
        report=lambda line: report({"variant": name, **line}),
        probes=lambda packer, store: Evaluator(packer, store, recipe.held_out_items, sources),
    )
    finished = trainer.finished or trainer.run(left)
    return {
        "finished": finished,
        "steps": trainer.step,
        "trained_parameters": sum(p.numel() for group in trainer.learner.groups().values() for p in group),
        **trainer.seen,
        **trainer.figures,
        "recipe": dataclasses.asdict(recipe),
    }


def _write(out: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    columns = [
        name
        for name in dict.fromkeys(name for row in rows.values() for name in row)
        if name.rpartition("/")[2] in _SHOWN or name in ("steps", "trained_parameters")
    ]
    lines = ["| variant | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for variant, row in rows.items():
        cells = [f"{row[name]:.3f}" if isinstance(row.get(name), float) else str(row.get(name, "")) for name in columns]
        lines.append(f"| {variant}{'' if row['finished'] else ' (stopped)'} | " + " | ".join(cells) + " |")
    for path, text in ((out / "table.json", json.dumps(rows, indent=2)), (out / "table.md", "\n".join(lines))):
        building = path.with_name(f".{path.name}.building")
        building.write_text(text + "\n", encoding="utf-8")
        building.replace(path)


_SHOWN = ("caption_loss", "caption_loss_wrong_image", "existence", "existence_wrong_image", "refer_loss", "refer")
