"""Corrections taught to an architecture that is not ours."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.training.any_model import train_any
from fourfold.assistant.refine.training.recipe import Refinement
from fourfold.assistant.training.data.mixture import MixtureConfig
from fourfold.assistant.training.preference import Preference
from fourfold.assistant.training.recipe import LoraSettings
from fourfold.prompts.errors import UserError
from tests.assistant.refine.corrections import correction, encoded, picture
from tests.tiny_llava import save_tiny_llava

REPLAY = MixtureConfig(scenes=4, scenes_per_epoch=4, turns=1, multi_turn=0.0, scene_tasks={"existence": 1, "colour": 1})
TINY = Refinement(
    lora=LoraSettings(rank=4, alpha=8), lora_lr=1e-2, least_steps=6, most_steps=6, batch_size=4, share=0.5,
    replay=REPLAY, replay_images=3, held_out=0.25,
)  # fmt: skip


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("model") / "tiny-llava")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = CorrectionStore(tmp_path_factory.mktemp("store"))
    for number in range(5):
        kept.add(correction(number, id=f"c{number}"), encoded(picture(number)))
    kept.add(correction(6, id="praised", chosen=None, verdict="up"), encoded(picture(6)))
    return kept.directory


def test_it_learns_answers_alone_and_peft_loads_what_it_wrote(llava: Path, store: Path, tmp_path: Path) -> None:
    out = train_any(store, llava, tmp_path / "adapter", recipe=TINY, seed=1)
    told = json.loads((out / "training.json").read_text())
    assert told["architecture"] == "llava" and told["steps"] == len(told["losses"]) == 6
    assert told["losses"][-1] < told["losses"][0]
    assert (len(told["corrections"]["learnt"]), len(told["corrections"]["held_out"])) == (4, 1)
    assert told["corrections"]["kept"] == ["praised"] and told["replay"]["questions"] >= 2
    assert {path.name for path in out.iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "training.json"
    }  # fmt: skip
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    tensors = load_file(out / "adapter_model.safetensors")
    assert all(".language_model.layers." in name for name in tensors)
    assert len(tensors) == 2 * 2 * 7  # two layers of seven linear ones, A and B
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(llava), str(out))
    loaded = dict(model.named_parameters())
    name = next(name for name in tensors if "lora_B" in name)
    assert torch.equal(loaded[name.replace(".weight", ".default.weight")].cpu(), tensors[name])


def test_the_same_training_gives_the_same_files(llava: Path, store: Path, tmp_path: Path) -> None:
    first, second = (train_any(store, llava, tmp_path / name, recipe=TINY, seed=1, max_steps=2) for name in "ab")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_what_cannot_be_learnt_is_said(llava: Path, store: Path, tmp_path: Path) -> None:
    preferring = Refinement(replay=REPLAY, preference=Preference(0.5, 0.1))
    with pytest.raises(UserError, match="are learnt on MiniGPT-v2 checkpoints only"):
        train_any(store, llava, tmp_path / "a", recipe=preferring)
    empty = CorrectionStore(tmp_path / "empty")
    with pytest.raises(UserError, match="there is nothing to learn"):
        train_any(empty.directory, llava, tmp_path / "a", recipe=TINY)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "none"}')
    with pytest.raises(UserError, match="does not load as an image-text-to-text model"):
        train_any(store, tmp_path / "broken", tmp_path / "a", recipe=TINY)
