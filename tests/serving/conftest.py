"""One tiny engine and one server for all tests of the HTTP layer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from fourfold.assistant.readouts import ReadoutLibrary
from fourfold.serving.api.keys import collect_keys
from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import ADMIN, PLAIN, Live, live_server
from tests.serving.looking.learnt import learnt_library
from tests.tiny import save_tool_checkpoint, tiny_model


@pytest.fixture(scope="session")
def tiny_engine(tiny_checkpoint: Path) -> Iterator[Engine]:
    """The tiny checkpoint, loaded; read-only but for adapters, which a test takes out again."""
    with Engine.load(tiny_checkpoint, dtype="float32", name="tiny", max_num_seqs=8, max_waiting=64) as engine:
        yield engine


@pytest.fixture(scope="session")
def learnt(tiny_engine: Engine) -> ReadoutLibrary:
    """Read-outs of the tiny checkpoint's tower, see `learnt_library`."""
    return learnt_library(tiny_engine)


@pytest.fixture(scope="session")
def live(tiny_engine: Engine) -> Iterator[Live]:
    """A server without keys."""
    with live_server(tiny_engine) as server:
        yield server


@pytest.fixture(scope="session")
def tool_engine(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Iterator[Engine]:
    """A tiny checkpoint whose template declares tools, with the adapter `tuned`."""
    directory = save_tool_checkpoint(tmp_path_factory.mktemp("tools") / "checkpoint")
    with Engine.load(directory, dtype="float32", device="cpu", name="tiny") as engine:
        engine.load_adapter("tuned", adapter)
        yield engine


@pytest.fixture(scope="session")
def declared(tool_engine: Engine) -> Iterator[Live]:
    """A server of it."""
    with live_server(tool_engine) as server:
        yield server


@pytest.fixture(scope="module")
def keyed(tiny_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server with an ordinary key, an admin's and one that may be used twice a minute; one for each file of tests."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# people\n{PLAIN} name=alice\n\n{ADMIN} name=root admin\nlimited-key-0123456789 per-minute=2\n")
    with live_server(tiny_engine, keys=collect_keys([], file, {})) as server:
        yield server


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a LoRA adapter of the tiny model that changes its answers."""
    directory = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=r".*language_model.*(q_proj|v_proj|up_proj)", init_lora_weights=False)
    get_peft_model(tiny_model(vocab_size=500), config).save_pretrained(directory)
    return directory
