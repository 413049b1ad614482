"""What was set in the page, kept for the next time."""

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass
class Preferences:
    """The page's settings. Neither keys nor anything that was said is among them.

    Attributes:
        model, other: who answers, and who answers beside it; "" for the endpoint's first model.
        compare: whether two models answer.
        temperature, top_p, max_tokens, seed: how.
        system: instructions for every conversation.
        looks: second looks that are on, names of `look_again`'s arguments.
        consent: whether corrections may be learnt from, unless said otherwise.
        remember: whether the local model is reminded of corrections.
        private: whether nothing is kept.
    """

    model: str = ""
    other: str = ""
    compare: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int | None = None
    system: str = ""
    looks: list[str] = field(default_factory=list)
    consent: bool = False
    remember: bool = True
    private: bool = False

    @classmethod
    def load(cls, path: Path) -> "Preferences":
        """From a file; what is missing or makes no sense takes its default."""
        preferences = cls()
        try:
            stored: Any = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            return preferences
        for known in fields(cls):
            value = stored.get(known.name) if isinstance(stored, dict) else None
            default = getattr(preferences, known.name)
            fits = type(value) is type(default) or (known.name == "seed" and isinstance(value, int))
            if isinstance(value, list):
                fits = fits and all(isinstance(entry, str) for entry in value)
            if value is not None and fits:
                setattr(preferences, known.name, value)
        return preferences

    def save(self, path: Path) -> None:
        """To a file, at once or not at all; a disk that is full is no reason to stop chatting."""
        if Preferences.load(path) == self:
            return
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
                json.dump(asdict(self), file, indent=1)
            os.replace(file.name, path)  # noqa: PTH105 (the name of a file that is closed)

    @property
    def parameters(self) -> dict[str, Any]:
        """As `BudgetedClient.parameters` takes them."""
        return {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "top_p": self.top_p,
            "seed": self.seed,
        }
