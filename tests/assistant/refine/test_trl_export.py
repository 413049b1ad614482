"""Corrections exported for TRL: what `datasets` reads, and two steps of TRL's own trainers on it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.trl_export import export_trl
from fourfold.prompts.errors import UserError
from tests.assistant.refine.corrections import correction, encoded, picture
from tests.tiny_llava import save_tiny_llava


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    store = CorrectionStore(tmp_path / "store")
    for number in range(4):
        store.add(correction(number, id=f"c{number}"), encoded(picture(number)))
    history = (
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]},
        {"role": "assistant", "content": "a ball"},
        {"role": "user", "content": "what colour?"},
    )
    store.add(correction(5, id="talk", messages=history), encoded(picture(5)))
    store.add(correction(6, id="praised", chosen=None, verdict="up"), encoded(picture(6)))
    store.add(correction(7, id="private", consent=False), encoded(picture(7)))
    assert export_trl(store, tmp_path / "trl") == (6, 5)
    with pytest.raises(UserError, match="exists already"):
        export_trl(store, tmp_path / "trl")
    return tmp_path / "trl"


def load(path: Path) -> Any:
    from datasets import load_dataset

    return load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(path.parent / "cache"))


def test_datasets_decodes_images_and_conversations(exported: Path) -> None:
    rows = list(load(exported / "sft.parquet"))
    assert {len(row["images"]) for row in rows} == {1}
    talk = next(row for row in rows if len(row["messages"]) == 4)
    assert [message["role"] for message in talk["messages"]] == ["user", "assistant", "user", "assistant"]
    assert [part["type"] for part in talk["messages"][0]["content"]] == ["image", "text"]
    assert talk["messages"][-1]["content"][0]["text"] == "blue"
    assert talk["images"][0].convert("RGB").tobytes() == picture(5).tobytes()
    pairs = list(load(exported / "dpo.parquet"))
    assert all(row["chosen"][0]["content"][0]["text"] == "blue" for row in pairs)
    assert all(row["rejected"][0]["content"][0]["text"] == "red" for row in pairs)


def test_nothing_to_export_is_said(tmp_path: Path) -> None:
    store = CorrectionStore(tmp_path / "store")
    store.add(correction(7, id="private", consent=False), encoded(picture(7)))
    with pytest.raises(UserError, match="nothing to export: of 1 records 0 have consent"):
        export_trl(store, tmp_path / "trl")
    assert not (tmp_path / "trl").exists()


def test_two_steps_of_trls_trainers(exported: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    llava = save_tiny_llava(tmp_path / "tiny-llava")
    settings: dict[str, Any] = {
        "max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "report_to": "none", "use_cpu": True,
        "save_strategy": "no", "logging_steps": 1, "bf16": False, "gradient_checkpointing": False, "max_length": None,
        "disable_tqdm": True,
    }  # fmt: skip
    for trainer, config, file in ((SFTTrainer, SFTConfig, "sft"), (DPOTrainer, DPOConfig, "dpo")):
        model = AutoModelForImageTextToText.from_pretrained(llava)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        run = trainer(
            model=model,
            args=config(output_dir=str(tmp_path / file), **settings),
            train_dataset=load(exported / f"{file}.parquet"),
            processing_class=AutoProcessor.from_pretrained(llava),
        )
        run.train()
        losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
        assert run.state.global_step == 2 and len(losses) == 2
        assert all(torch.isfinite(torch.tensor(loss)) for loss in losses)
        changed = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
        assert any("language_model" in name for name in changed)
        assert any("projector" in name for name in changed)  # the images were looked at
