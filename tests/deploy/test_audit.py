"""`deploy/audit.py` on packages that were tampered with after they were installed."""

import base64
import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "audit.py"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with one package of two files, as pip leaves it."""
    directory = tmp_path / "site-packages"
    package, info = directory / "tiny", directory / "tiny-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text("x = 1\n")
    (package / "data.json").write_text("{}")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Tiny\nVersion: 1.0\n")
    lines = []
    for path in sorted(package.iterdir()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
        lines.append(f"tiny/{path.name},sha256={digest},{path.stat().st_size}")
    (info / "RECORD").write_text("\n".join([*lines, "tiny-1.0.dist-info/METADATA,,", "tiny-1.0.dist-info/RECORD,,"]))
    return directory


def run(site: Path, *constraints: Path) -> tuple[int, str]:
    command = [sys.executable, str(SCRIPT), str(site), *map(str, constraints)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    return done.returncode, done.stdout


def test_what_was_not_touched(site: Path, tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("# all\ntiny==1.0\nother==2\n")
    assert run(site, tmp_path / "constraints.txt") == (0, "1 packages, 2 files compared: 0 wrong\n")


def test_everything_that_is_wrong_is_told(site: Path, tmp_path: Path) -> None:
    (site / "tiny" / "__init__.py").write_text("x = 2\n")
    (site / "tiny" / "data.json").unlink()
    (site / "tiny" / "more.py").write_text("")
    (site / "evil.pth").write_text("import os; os.system('true')\n")
    (tmp_path / "constraints.txt").write_text("TINY==1.1\n")
    code, said = run(site, tmp_path / "constraints.txt")
    assert code == 1
    assert said.splitlines() == [
        "note: evil.pth runs at every start of Python: import os; os.system('true')",
        "wrong: tiny 1.0: tiny/__init__.py was changed",
        "wrong: tiny 1.0: tiny/data.json is missing",
        "wrong: evil.pth is of no package",
        "wrong: tiny/more.py is of no package",
        "wrong: tiny is 1.0, and by constraints.txt 1.1",
        "1 packages, 1 files compared: 5 wrong",
    ]


def test_a_package_without_a_list_of_its_files(site: Path) -> None:
    (site / "tiny-1.0.dist-info" / "RECORD").unlink()
    code, said = run(site)
    assert code == 1 and "tiny 1.0 has no RECORD" in said


def test_this_environment_is_read(tmp_path: Path) -> None:
    """A package that was really installed is found unchanged."""
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module
    spec.loader.exec_module(module)
    import iniconfig

    site = Path(iniconfig.__file__).parents[1]
    [info] = site.glob("iniconfig-*.dist-info")
    (tmp_path / info.name).symlink_to(info)
    (tmp_path / "iniconfig").symlink_to(site / "iniconfig")
    found = module.audit(tmp_path, None)
    assert (found.packages, found.wrong) == (1, []) and found.files >= 3
