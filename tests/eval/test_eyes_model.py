"""The evaluation asks the loop as users do, and the model alone where it is told to."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.grounding import format_box
from fourfold.eval.model import EngineModel, Output
from fourfold.eval.task import Sample
from fourfold.serving.engine.engine import Engine
from fourfold.serving.looking import Looking
from tests.serving.looking.scripted import CAT, DOG, ScriptedLibrary, finding

NOISE = Image.effect_noise((64, 48), 80).convert("RGB")


@dataclass(frozen=True)
class Noise:
    key: str = "noise"
    id: str = "noise"

    def open(self) -> Image.Image:
        return NOISE


SAMPLES = [
    Sample("place", "[refer] where is the dog?", Noise()),
    Sample("colour", "[vqa] what colour is the dog?", Noise(), candidates=("red", "blue")),
    Sample("blind", "[refer] where is the dog?"),
]


def asked(model: EngineModel) -> dict[str, Output]:
    outputs: dict[str, Output] = {}
    model.generate(
        SAMPLES, max_tokens=40, template={}, on_output=lambda sample, output: outputs.update({sample.id: output})
    )
    return outputs


def test_eyes_answer_where_there_are_some(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = ScriptedLibrary({"dog": finding("dog", (DOG, 0.8), (CAT, 0.4))})

    def load(engine: Engine, *_: object) -> Looking:
        return Looking(engine, library)  # type: ignore[arg-type]

    monkeypatch.setattr(Looking, "load", load)
    with EngineModel(tiny_checkpoint, dtype="float32", eyes=True) as model:
        seen = asked(model)
        plain = EngineModel(tiny_checkpoint, shared=model)
        alone = asked(plain)
        assert "claims" not in alone["place"].fields
    assert seen["place"].text == format_box(DOG)
    assert seen["place"].fields["claims"] == [
        {"phrase": "dog", "box": list(DOG.as_tuple()), "confidence": 0.8, "source": "read-out"}
    ]
    assert alone["place"].text != seen["place"].text
    for same in ("colour", "blind"):
        assert (seen[same].text, seen[same].scores) == (alone[same].text, alone[same].scores)


def test_answers_with_eyes_are_another_models(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tiny_checkpoint.iterdir():
        (copy / file.name).symlink_to(file)
    plain, eyed = EngineModel(copy), EngineModel(copy, eyes=True)
    assert plain.identity == eyed.identity  # no read-outs, no eyes
    (copy / "readouts.safetensors").write_bytes(b"one library")
    first = EngineModel(copy, eyes=True).identity
    assert first.startswith(plain.identity + "+eyes-")
    (copy / "readouts.safetensors").write_bytes(b"another library")
    assert EngineModel(copy, eyes=True).identity != first
    assert EngineModel(copy).identity == plain.identity
