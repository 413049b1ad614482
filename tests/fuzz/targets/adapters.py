"""LoRA adapters to serve, and to merge."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from fourfold.assistant.checkpoints.lora import merge_lora
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.engine import Engine
from tests.fuzz.mutation import Mutator, by_name, named, parted, safetensors
from tests.fuzz.target import Target
from tests.tiny import save_tiny_checkpoint, tiny_model

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def adapters(directory: Path) -> Target:
    """Each is loaded into an engine and taken out again, and added to the weights."""
    sound, case = directory / "sound", directory / "case"
    case.mkdir(parents=True, exist_ok=True)
    if not (directory / "checkpoint").exists():
        save_tiny_checkpoint(directory / "checkpoint")
    torch.manual_seed(1)
    model = tiny_model(vocab_size=500)
    language = {name: tensor.clone() for name, tensor in model.model.language_model.state_dict().items()}
    targets = r".*language_model.*(q_proj|v_proj)"
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(sound)
    files = {name: (sound / name).read_bytes() for name in (_CONFIG, _WEIGHTS)}
    engine = Engine.load(directory / "checkpoint", dtype="float32", device="cpu", name="tiny", max_num_seqs=1)

    def load(given: bytes) -> None:
        name, content = parted(given)
        if name not in files:
            return
        for other in files:
            (case / other).write_bytes(content if other == name else files[other])
        try:
            engine.load_adapter("new", case)
        except UserError:
            merge_lora(language, case)
            raise
        engine.unload_adapter("new")
        merge_lora(language, case)

    told = json.loads(files[_CONFIG])
    plain = {key: told[key] for key in ("peft_type", "r", "lora_alpha", "target_modules", "task_type")}
    seeds = [named(name, content) for name, content in files.items()]
    seeds += [
        named(_CONFIG, json.dumps(plain).encode()),
        named(_CONFIG, json.dumps({**told, "use_dora": True}).encode()),
    ]
    return Target(seeds, load, by_name([(".json", Mutator.json), (".safetensors", safetensors)]), 2**17, engine.close)
