"""What was set in the page, kept for the next time."""

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from fourfold.assistant.files import replacing
from fourfold.assistant.grounding import BoxFormat

Look = Literal["check_claims", "closer", "agreement", "read"]
"""A second look that can be on: an argument of `look_again`."""


class Preferences(BaseModel):
    """The page's settings, within what its controls can show. Neither keys nor anything that was said is among them."""

    model: str = ""  # who answers; "" for the endpoint's first model
    other: str = ""  # and who beside it, where two are compared
    compare: bool = False
    temperature: Annotated[float, Field(ge=0, le=1.5)] = 0.0
    top_p: Annotated[float, Field(ge=0.05, le=1)] = 1.0
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 256
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    system: Annotated[str, Field(max_length=4000)] = ""
    looks: list[Look] = []
    eyes: bool = True  # the endpoint's model is asked under the name that looks before it answers, where it has one
    consent: bool = False  # to train with it, that a new correction begins with
    remember: bool = True  # corrections: the same question about the same picture is answered so
    private: bool = False  # nothing is kept
    endpoint: Annotated[str, Field(max_length=2000)] = ""  # address of the one chosen in the page; "" for its own
    endpoint_model: Annotated[str, Field(max_length=300)] = ""  # a name that it serves, where it lists none
    box_formats: dict[str, BoxFormat] = {}  # how models write boxes whose names do not tell

    @classmethod
    def load(cls, path: Path) -> "Preferences":
        """From a file; what is missing, unknown or makes no sense takes its default."""
        try:
            stored: Any = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return cls()
        try:
            return cls.model_validate(stored)
        except ValidationError as error:
            wrong = {fault["loc"][0] for fault in error.errors() if fault["loc"]}
            good = {name: value for name, value in stored.items() if name not in wrong} if wrong else {}
            return cls.model_validate(good)

    def save(self, path: Path) -> None:
        """To a file, at once or not at all; a disk that is full is no reason to stop chatting."""
        if Preferences.load(path) != self:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with replacing(path) as part:
                    part.chmod(0o600)
                    part.write_text(self.model_dump_json(indent=1), "utf-8")

    @property
    def parameters(self) -> dict[str, Any]:
        """As `ModelSettings.parameters` takes them."""
        return self.model_dump(include={"temperature", "max_tokens", "top_p", "seed"})
