"""Temperatures of a checkpoint: what its log-likelihoods are divided by, so that its probabilities can be believed."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.assistant.files import write_text
from fourfold.prompts.errors import UserError

log = logging.getLogger("fourfold.calibration")

CALIBRATION_FILE = "calibration.json"
"""Its name in a checkpoint directory and in a bridge."""
DecisionKind = Literal["predicate", "choice", "score"]
DECISION_KINDS: tuple[DecisionKind, ...] = ("predicate", "choice", "score")


@dataclass(frozen=True)
class Calibration:
    """Temperatures that were fitted on questions with known answers (Guo et al. 2017).

    Attributes:
        model: fingerprint of the checkpoint.
        temperatures: above 0, by kind of question; a kind without one is raw.
        fitted: how, by kind of question: images, questions, losses before and after.
    """

    model: str
    temperatures: Mapping[DecisionKind, float]
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def write(self, directory: Path) -> Path:
        """Put it into a checkpoint directory or a bridge."""
        told = {"model": self.model, "temperatures": dict(self.temperatures), "fitted": dict(self.fitted)}
        path = directory / CALIBRATION_FILE
        write_text(path, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
        return path


def read_calibration(checkpoint: Path) -> Calibration | None:
    """The calibration of a checkpoint; None where it has none, or one of another model's, which is logged.

    Takes a second for the default model, whose weights are hashed.

    Raises:
        UserError: the file is damaged.
    """
    path = checkpoint / CALIBRATION_FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        temperatures = {kind: float(value) for kind, value in told["temperatures"].items()}
        found = Calibration(str(told["model"]), temperatures, told.get("fitted", {}))
        known = set(DECISION_KINDS).issuperset(temperatures)
        if not known or not all(0 < value < math.inf for value in temperatures.values()):
            raise ValueError("temperatures")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"{path} is no calibration; remove it, or fit it again by `fourfold train calibrate`") from None
    if found.model != model_fingerprint(checkpoint):
        log.warning("%s was fitted for another model and is not used; fit it again by fourfold train calibrate", path)
        return None
    return found
