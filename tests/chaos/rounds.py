"""What a round of faults is, and what it came to."""

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass
class Outcome:
    """Of one round.

    Attributes:
        kills: processes that died by SIGKILL, by what they were.
        faults: other faults, by name, and how often.
        problems: sentences on what was lost, doubled or could not be opened; none where all is well.
    """

    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def expect(self, holds: object, problem: str) -> None:
        if not holds:
            self.problems.append(problem)


class Kind(Protocol):
    """Faults of one kind. What costs time to make is made once, at the first round."""

    name: str

    def round(self, dice: random.Random, folder: Path) -> Outcome:
        """Work and faults in a folder of its own, and a look at what is left; all that is drawn comes from `dice`."""
        ...
