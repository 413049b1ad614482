"""What can be seen in one picture: read-outs of the tower, the detector, and the language model's yes or no."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from fourfold.assistant.chat.look_again import Sighting
from fourfold.assistant.chat.look_again.claims import is_there
from fourfold.assistant.grounding import Box
from fourfold.serving.engine.requests import Request
from fourfold.serving.looking.claim import Source
from fourfold.serving.looking.presence import combined, yes_probability

if TYPE_CHECKING:
    from fourfold.assistant.readouts import Finding, ReadoutLibrary
    from fourfold.assistant.tools.results import Count
    from fourfold.serving.engine.engine import Engine

SHOWN: Source = "shown once"
"""`Finding.source` of what a person showed."""


class Detector(Protocol):
    """Finds and counts things of a fixed set of classes, as `assistant.tools.Detector` does."""

    def detect(self, image: Image.Image, noun: str) -> Sequence[tuple[Box, float]] | None:
        """Boxes of a noun with the chance that each is right, the surest first; None for a noun that it has no
        class for."""

    def everything(self, image: Image.Image) -> Sequence[tuple[str, Box, float]]:
        """All that it finds: its class, its box, the chance that this is right."""

    def count(self, image: Image.Image, noun: str) -> "Count":
        """How many there are; `number` is None for a noun that it has no class for."""


@dataclass
class Eyes:
    """One picture.

    Attributes:
        engine: has the tower's features of it, and the language model.
        library: read-outs, concepts included.
        image: the picture, RGB.
        detector: None for none.
    """

    engine: "Engine"
    library: "ReadoutLibrary"
    image: Image.Image
    detector: Detector | None = None
    _found: dict[tuple[str, bool], "Finding | None"] = field(default_factory=dict, repr=False)
    _detected: dict[str, Sequence[tuple[Box, float]] | None] = field(default_factory=dict, repr=False)
    _counted: dict[str, "Count | None"] = field(default_factory=dict, repr=False)

    @cached_property
    def features(self) -> np.ndarray:
        """(rows, columns, vision width), normalised as the read-outs take them."""
        from fourfold.assistant.readouts import normalised

        return normalised(self.engine.vision_features(self.image))

    def find(self, phrase: str, *, several: bool = False) -> "Finding | None":
        """Where a phrase's thing is by the read-outs; None where they know no word of it."""
        if (phrase, several) not in self._found:
            self._found[phrase, several] = self.library.find(self.features, phrase, several=several)
        return self._found[phrase, several]

    def detected(self, noun: str) -> Sequence[tuple[Box, float]] | None:
        """Where the detector finds a noun, the surest first; None where there is no detector, or no class for it."""
        if self.detector is None:
            return None
        if (
            noun not in self._detected
        ):  # the detector knows a picture by all its pixels, which takes long of a large one
            self._detected[noun] = self.detector.detect(self.image, noun)
        return self._detected[noun]

    def everything(self) -> Sequence[tuple[str, Box, float]]:
        """All that the detector finds, as `Detector.everything`; nothing where there is no detector."""
        return () if self.detector is None else self.detector.everything(self.image)

    def colours(self, phrase: str) -> list[tuple[str, float]]:
        """As `ReadoutLibrary.colours`."""
        return self.library.colours(self.features, phrase, self.image)

    def counted(self, noun: str) -> "Count | None":
        """How many the detector finds; None where there is no detector, or no class for it."""
        if self.detector is None:
            return None
        if noun not in self._counted:
            count = self.detector.count(self.image, noun)
            self._counted[noun] = count if count.number is not None else None
        return self._counted[noun]

    def sighting(self, thing: str) -> Sighting | None:
        """What the read-outs see of a thing, for a second look; None where they do not know it."""
        finding = self.find(thing)
        if finding is None:
            return None
        return Sighting(finding.presence, finding.boxes[0] if finding.boxes else None, finding.source)

    def presence(self, finding: "Finding", thing: str) -> tuple[float, Source]:
        """Chance that a finding's thing, in these words, is in the picture, and who says so.

        The language model is asked as well, unless a person showed the thing: then it has never heard of it.
        """
        if finding.source == SHOWN:
            return finding.presence, SHOWN
        content = [{"type": "image", "image": self.image}, {"type": "text", "text": is_there(thing)}]
        request = Request([{"role": "user", "content": content}])
        model = yes_probability(self.engine.score(request, ["yes", "no"]))
        return combined(finding.presence, model), "read-out + model"
