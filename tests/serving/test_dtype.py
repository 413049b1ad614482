import json
from pathlib import Path

import pytest
import torch

from prompts.errors import UserError
from serving import dtype
from serving.dtype import choose_dtype, free_cores, turn_cost
from tests.tiny import tiny_config

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtype, "_running_elsewhere", lambda: 0)


def test_a_named_format_is_taken_as_it_is() -> None:
    assert choose_dtype("bfloat16", tiny_config(), CPU) == torch.bfloat16
    with pytest.raises(UserError, match="float32, bfloat16, float16"):
        choose_dtype("float8", tiny_config(), CPU)


@pytest.mark.parametrize(("ratio", "chosen"), [(0.45, torch.bfloat16), (0.55, torch.float32), (2.0, torch.float32)])
def test_bfloat16_has_to_be_clearly_faster(
    ratio: float, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dtype, "turn_cost", lambda config, kind: ratio if kind == torch.bfloat16 else 1.0)
    memo = tmp_path / "cache" / "dtype.json"
    assert choose_dtype("auto", tiny_config(), CPU, memo) == chosen
    # Later starts keep to it, whatever a second measurement would say.
    monkeypatch.setattr(dtype, "turn_cost", lambda config, kind: 3.0 - ratio if kind == torch.bfloat16 else 1.5)
    assert choose_dtype("auto", tiny_config(), CPU, memo) == chosen
    assert [path.name for path in memo.parent.iterdir()] == ["dtype.json"]


def test_a_busy_machine_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dtype, "turn_cost", lambda config, kind: 0.1 if kind == torch.bfloat16 else 1.0)
    monkeypatch.setattr(dtype, "_running_elsewhere", lambda: 2)
    memo = tmp_path / "dtype.json"
    assert choose_dtype("auto", tiny_config(), CPU, memo) == torch.float32
    assert not memo.exists()
    monkeypatch.setattr(dtype, "_running_elsewhere", lambda: 0)
    assert choose_dtype("auto", tiny_config(), CPU, memo) == torch.bfloat16


def test_a_damaged_or_unwritable_memo_is_no_obstacle(tmp_path: Path) -> None:
    memo = tmp_path / "dtype.json"
    for content in ("{", "[]", '{"x": "int3"}'):
        memo.write_text(content)
        assert choose_dtype("auto", tiny_config(), CPU, memo) in (torch.float32, torch.bfloat16)
        assert set(json.loads(memo.read_text()).values()) & {"float32", "bfloat16"}
    (tmp_path / "file").write_text("")
    assert choose_dtype("auto", tiny_config(), CPU, tmp_path / "file" / "dtype.json") is not None


def test_the_measured_cost_grows_with_the_model() -> None:
    small = tiny_config()
    large = tiny_config()
    large.text_config.num_hidden_layers = 2000
    assert 0 < turn_cost(small, torch.float32) < turn_cost(large, torch.float32)


def test_threads_leave_busy_cores_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtype.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(dtype, "_running_elsewhere", lambda: 3)
    assert free_cores() <= 5
    monkeypatch.setattr(dtype, "_running_elsewhere", lambda: 50)
    assert free_cores() == 1
