"""A detector that sees what a test says."""

from collections.abc import Callable

import pytest
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.tools import detector

See = Callable[..., None]


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    detector._SEEN.clear()


@pytest.fixture
def picture() -> Image.Image:
    return Image.new("RGB", (80, 60), "grey")


@pytest.fixture
def sees(monkeypatch: pytest.MonkeyPatch) -> See:
    """Call it with (label, box, score), and that is what the network sees in the whole picture."""

    def script(*seen: tuple[str, tuple[float, float, float, float], float]) -> None:
        detector._SEEN.clear()
        found = [detector._Seen(label, Box(*box), score) for label, box, score in seen]
        whole = Box(0, 0, 1, 1)
        monkeypatch.setattr(detector, "_forward", lambda pixels, part: list(found) if part == whole else [])

    return script
