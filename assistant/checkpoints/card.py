"""What a model is good at, as measured: `card.json` in a checkpoint directory, and what a server tells of it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from fourfold.assistant.files import write_text
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task

CARD_FILE = "card.json"
"""Its name in a checkpoint directory and in a bridge."""
Level = Literal["good", "unsure", "poor"]
_LONGEST = 200  # characters of a line or a note; an endpoint may send anything


@dataclass(frozen=True)
class TaskCard:
    """How well a model does a task.

    Attributes:
        level: "good" where the lower bound of the measured interval is at least a half; "poor" where its upper bound is
            less than a quarter, or the answers are no better with the picture than with another one; else "unsure".
        note: the figure, in words.
    """

    level: Level
    note: str


@dataclass(frozen=True)
class Card:
    """What people are told of a model.

    Attributes:
        line: what it is good at and what not, in at most `_LONGEST` characters.
        tasks: by task; what was not measured is not there.
    """

    line: str
    tasks: Mapping[Task, TaskCard] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """`{line, tasks: {task: {level, note}}}`."""
        tasks = {task.value: {"level": one.level, "note": one.note} for task, one in self.tasks.items()}
        return {"line": self.line, "tasks": tasks}


@dataclass(frozen=True)
class MeasuredCard:
    """All of `card.json`.

    Attributes:
        alone: of the language model alone; None where nothing is said of it.
        eyes: of the loop that looks before it answers; likewise.
        talks: whether it can be talked to without a picture. False for models that know next to nothing else.
        certainty: for each kind of question (see `serving.looking.kinds`) the slope and the bias of the log-odds that
            the model's answer is right, of the log-odds of its probability; fitted on held-back questions.
    """

    alone: Card | None = None
    eyes: Card | None = None
    talks: bool = True
    certainty: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def read_card(checkpoint: Path) -> MeasuredCard | None:
    """The card of a checkpoint; None where it has none.

    Raises:
        UserError: the file is damaged.
    """
    path = checkpoint / CARD_FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        certainty = {
            str(kind): (float(slope), float(bias)) for kind, (slope, bias) in told.get("certainty", {}).items()
        }
        if not all(math.isfinite(number) for pair in certainty.values() for number in pair):
            raise ValueError("certainty")
        return MeasuredCard(
            card_read(told.get("alone")), card_read(told.get("eyes")), bool(told.get("talks", True)), certainty
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"{path} is no model's card; remove it, and nothing is said of what the model can do") from None


def write_certainty(directory: Path, certainty: Mapping[str, tuple[float, float]]) -> Path:
    """Put what was fitted into a directory's card, beside what else it says; one without a card gets one.

    Raises:
        UserError: the card that is there is damaged.
    """
    path = directory / CARD_FILE
    read_card(directory)
    told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    fitted = {kind: list(pair) for kind, pair in certainty.items()}
    told["certainty"] = {**told.get("certainty", {}), **fitted}  # a kind that was not asked about stays as it was
    write_text(path, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return path


def card_read(value: Any) -> Card | None:
    """A card from `Card.to_json`'s form, which an endpoint may send in any shape; None where it is none.

    A task that is unknown, or whose level is, is left out.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("line"), str) or not value["line"].strip():
        return None
    tasks, told = {}, value.get("tasks")
    for name, one in told.items() if isinstance(told, Mapping) else ():
        if name not in set(Task) or not isinstance(one, Mapping) or one.get("level") not in get_args(Level):
            continue
        tasks[Task(name)] = TaskCard(one["level"], _short(str(one.get("note") or "")))
    return Card(_short(value["line"]), tasks)


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"
