"""Oracles: other people's implementations, loaded alone out of their wheels where these have been fetched."""

import importlib.util
import os
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ORACLES = Path(os.environ.get("FOURFOLD_ORACLES", Path(__file__).parents[2] / ".whl"))


def load_from_wheel(wheel: str, member: str, tmp_path: Path) -> ModuleType:
    """One module file of a pinned wheel; skips where the wheel is not at hand, since unit tests use no network."""
    path = ORACLES / wheel
    if not path.is_file():
        pytest.skip(f"no {wheel} in {ORACLES} (pip download --no-deps, or set FOURFOLD_ORACLES)")
    with zipfile.ZipFile(path) as archive:
        source = tmp_path / Path(member).name
        source.write_bytes(archive.read(member))
    spec = importlib.util.spec_from_file_location(f"oracle_{source.stem}", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def lmms_vqa(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """lmms-eval's EvalAI answer processor."""
    return load_from_wheel(
        "lmms_eval-0.7.3-py3-none-any.whl",
        "lmms_eval/tasks/_task_utils/vqa_eval_metric.py",
        tmp_path_factory.mktemp("lmms"),
    )


@pytest.fixture(scope="session")
def coco_cider(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """pycocoevalcap's CIDEr-D scorer."""
    return load_from_wheel(
        "pycocoevalcap-1.2-py3-none-any.whl",
        "pycocoevalcap/cider/cider_scorer.py",
        tmp_path_factory.mktemp("cider"),
    )
