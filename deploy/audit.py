"""What is installed, held against what was meant to be: `make audit`, which needs no network for this.

Every file of every package is compared with the digest that its wheel brought (RECORD), every version with
`constraints.txt`; and files are listed that no package brought, and lines that Python runs at each start (`*.pth`).
What is known against a version says `pip-audit`, where the index can be asked for it.
"""

import base64
import hashlib
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Written when something is installed or run, not when it is made.
_NOT_COMPARED = re.compile(r"\.pyc$|(^|/)(RECORD|INSTALLER|REQUESTED|direct_url\.json)$")


@dataclass
class Audit:
    """What was found.

    Attributes:
        packages: how many there are.
        files: how many were compared.
        wrong: one line each; with none of them all is as it was meant.
        notes: what a person may want to know.
    """

    packages: int = 0
    files: int = 0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def audit(site: Path, constraints: Path | None) -> Audit:
    """Look at all that is installed in a directory of packages.

    Args:
        site: such as `.venv/lib/python3.11/site-packages`.
        constraints: a file of `name==version` lines; None to compare no versions.
    """
    found = Audit()
    owned: set[Path] = set()
    versions: dict[str, str] = {}
    for package in importlib.metadata.distributions(path=[str(site)]):
        found.packages += 1
        name = _normal(package.metadata["Name"])
        versions[name] = package.version
        if package.files is None:
            found.wrong.append(f"{name} {package.version} has no RECORD: nobody can say what it brought")
            continue
        for file in package.files:
            place = Path(str(file.locate()))
            owned.add(place.resolve())
            if _NOT_COMPARED.search(file.as_posix()):
                continue
            if not place.is_file():
                found.wrong.append(f"{name} {package.version}: {file} is missing")
            elif file.hash is not None:
                found.files += 1
                if _digest(place, file.hash.mode) != file.hash.value:
                    found.wrong.append(f"{name} {package.version}: {file} was changed")
    found.wrong += _strangers(site, owned)
    found.notes += _run_at_start(site)
    if constraints is not None:
        found.wrong += _other_versions(constraints, versions)
    return found


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, kind).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _strangers(site: Path, owned: set[Path]) -> Iterator[str]:
    """Files that Python would import, or run, and that no package brought."""
    for path in sorted(site.rglob("*")):
        if path.suffix in (".py", ".so", ".pth", ".pyd") and path.is_file() and path.resolve() not in owned:
            yield f"{path.relative_to(site)} is of no package"


def _run_at_start(site: Path) -> Iterator[str]:
    for path in sorted(site.glob("*.pth")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            if line.startswith(("import ", "import\t")):
                yield f"{path.name} runs at every start of Python: {line[:100]}"


def _other_versions(constraints: Path, versions: dict[str, str]) -> Iterator[str]:
    wanted: dict[str, str] = {}
    for line in constraints.read_text(encoding="utf-8").splitlines():
        name, equals, version = line.partition("#")[0].partition("==")
        if equals:
            wanted[_normal(name.strip())] = version.partition(";")[0].strip()
    for name, version in sorted(versions.items()):
        if name in wanted and version.partition("+")[0] != wanted[name].partition("+")[0]:
            yield f"{name} is {version}, and by {constraints.name} {wanted[name]}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(arguments: Iterable[str]) -> int:
    """`audit.py SITE [CONSTRAINTS]`; 1 where something is wrong."""
    site, *rest = [Path(argument) for argument in arguments]
    found = audit(site, rest[0] if rest else None)
    for note in found.notes:
        print(f"note: {note}")
    for line in found.wrong:
        print(f"wrong: {line}")
    print(f"{found.packages} packages, {found.files:,} files compared: {len(found.wrong)} wrong")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
