"""The first screen's questions are answered rightly by the model that is shipped, with the detector and without it."""

from collections.abc import Callable, Iterator

import pytest

from fourfold.assistant.grounding import Box, parse
from fourfold.assistant.images import load_image_file
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.serving.engine.requests import Request, Sampling
from fourfold.serving.looking import EYES, Looking
from fourfold.ui.state.asking import words_for
from fourfold.ui.state.endpoint import Served
from fourfold.ui.views.welcome import SAMPLES, offered
from tests.ui.scripted import BOTTLE

_SHAPES = make_scene("page5", most=5).items  # as `ui/samples/shapes.png` was rendered
HEARTS = [item.box.as_tuple() for item in _SHAPES if item.shape == "heart"]
[PINK] = [item.box.as_tuple() for item in _SHAPES if (item.shape, item.colour) == ("heart", "pink")]


def says(words: str) -> Callable[[str], bool]:
    return lambda answer: answer == words


def points(*places: tuple[float, float, float, float]) -> Callable[[str], bool]:
    """Every box is on a thing, and every thing has a box, IoU 0.5 or more."""

    def right(answer: str) -> bool:
        boxes = parse(answer).boxes
        overlaps = [[box.iou(Box(*place)) for place in places] for box in boxes]
        return len(boxes) == len(places) and all(max(row) >= 0.5 for row in [*overlaps, *zip(*overlaps, strict=True)])

    return right


RIGHT = {
    "What colour is the ball?": says("Red."),
    "Where is the bottle?": points(BOTTLE),
    "Is there a dog?": says("No, I see no dog."),
    "Where is the pink heart?": points(PINK),
    "Find all hearts": points(*HEARTS),
    "Is there a star?": says("No, I see no star."),
}


@pytest.fixture(scope="module")
def looking() -> Iterator[Looking]:
    from fourfold.assistant.checkpoints.resolve import resolve_model
    from fourfold.serving.engine.engine import Engine

    directory = resolve_model(None)
    with Engine.load(directory, max_num_seqs=1) as engine:
        found = Looking.load(engine, directory)
        assert found is not None
        yield found


@pytest.mark.mini
@pytest.mark.parametrize("detector", [True, False])
def test_every_sample_is_answered_rightly(looking: Looking, detector: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not detector:
        monkeypatch.setattr(looking, "detector", None)
    assert looking.card is not None and looking.card.eyes is not None
    model = Served("fourfold-mini", eyes="fourfold-mini" + EYES, card=looking.card.eyes)
    asked = set()
    for sample in SAMPLES:
        picture = load_image_file(sample.file)
        for _, (label, task, words) in offered(sample, model):
            content = [
                {"type": "image", "image": picture},
                {"type": "text", "text": words_for(task, words, None, model)},
            ]
            completion, _ = looking.answer(Request([{"role": "user", "content": content}], Sampling(max_tokens=120)))
            assert RIGHT[label](completion.text), f"{label} {completion.text}"
            asked.add(label)
    assert asked == set(RIGHT)
