"""Hugging Face's own common tests, out of transformers' source archive: no wheel has them, and none is copied here."""

import importlib
import os
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from conftest import REFERENCE

_ARCHIVES = Path(os.environ.get("FOURFOLD_ORACLES", Path(__file__).parents[2] / ".whl"))
_PACKAGE = "transformers_common_tests"


def load(name: str, directory: Path) -> ModuleType:
    """The module `tests/NAME.py` of the archive, unpacked into `directory`.

    The archive has the files at the top of transformers' `tests` and none of its folders: what those files import from
    there stands here as empty classes, which bring no test along.

    Raises:
        FileNotFoundError: `make test-standalone` has not fetched the archive of the installed transformers.
    """
    stem = f"transformers-{version('transformers')}"
    with tarfile.open(_ARCHIVES / f"{stem}.tar.gz") as archive:
        packed = archive.extractfile(f"{stem}/tests/{name}.py")
        assert packed is not None
        (directory / f"{name}.py").write_bytes(packed.read())
    package = _stand_in(_PACKAGE)
    package.__path__ = [str(directory)]
    _stand_in(f"{_PACKAGE}.exporters").__path__ = []
    _stand_in(f"{_PACKAGE}.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    _stand_in(f"{_PACKAGE}.generation").__path__ = []
    _stand_in(f"{_PACKAGE}.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
    # In place of every picture of the Hub.
    _stand_in("fetch_hub_objects_for_ci", url_to_local_path=lambda url: str(REFERENCE / "0.png"))
    return importlib.import_module(f"{_PACKAGE}.{name}")


def _stand_in(name: str, **contents: object) -> ModuleType:
    module = sys.modules.setdefault(name, ModuleType(name))
    vars(module).update(contents)
    return module
