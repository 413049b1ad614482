"""The optional parts of fourfold (`pip install "fourfold[serve]"`): what each wants, and the words where it is not."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fourfold.prompts.errors import UserError

if TYPE_CHECKING:  # not at the start of every command, as below
    from packaging.requirements import Requirement

_MODULES = {"opencv-python-headless": "cv2", "pyyaml": "yaml", "protobuf": "google.protobuf"}
"""What is imported of a distribution, where that has another name."""


@dataclass(frozen=True)
class Unmet:
    """A requirement of fourfold that is not met.

    Args:
        requirement: as `pip install` takes it.
        installed: the version that is here, None for none.
    """

    requirement: str
    installed: str | None


def extras() -> list[str]:
    """Names of the extras, in the order of pyproject.toml."""
    import importlib.metadata

    return importlib.metadata.metadata("fourfold").get_all("Provides-Extra") or []


def requirements(extra: str = "") -> "Iterator[Requirement]":
    """What fourfold requires, or what one of its extras adds, those that it includes resolved."""
    import importlib.metadata

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    for line in importlib.metadata.requires("fourfold") or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if not (marker is None or marker.evaluate({"extra": extra})) or (extra and marker is None):
            continue
        if canonicalize_name(requirement.name) == "fourfold":
            for included in sorted(requirement.extras):
                yield from requirements(included)
        else:
            yield requirement


def unmet_requirements(extra: str = "") -> list[Unmet]:
    """Requirements of fourfold, or of one of its extras, that the installed packages do not meet."""
    found = []
    for requirement in requirements(extra):
        installed = installed_version(requirement.name)
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            found.append(Unmet(f"{requirement.name}{requirement.specifier}", installed))
    return list(dict.fromkeys(found))


def installed_version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def require(extra: str, what: str) -> None:
    """See that an extra is installed, before anything slow is begun.

    Args:
        extra: its name.
        what: what needs it, as the message begins.

    Raises:
        UserError: a package of it is not there; the message has the command that brings it.
    """
    if any(not _is_there(requirement) for requirement in requirements(extra)):
        raise missing_extra(extra, what)


def explain(error: ModuleNotFoundError) -> UserError | None:
    """What to say of an import that failed; None where the module is of no extra, so that the fault is another."""
    module = error.name or ""
    for extra in extras():
        for requirement in requirements(extra):
            name = _module(requirement)
            if module == name or module.startswith(f"{name}."):
                return missing_extra(extra, f"{requirement.name} is not installed; this")
    return None


def missing_extra(extra: str, what: str) -> UserError:
    """What to raise where `what` cannot be done without an extra."""
    # By this interpreter: its environment is the one that lacks it, and has fourfold already.
    return UserError(f'{what} needs the extra "{extra}": {sys.executable} -m pip install "fourfold[{extra}]"')


def _is_there(requirement: "Requirement") -> bool:
    try:
        return find_spec(_module(requirement)) is not None
    except (ModuleNotFoundError, ValueError):  # of a submodule whose parent is not there
        return False


def _module(requirement: "Requirement") -> str:
    from packaging.utils import canonicalize_name

    name = canonicalize_name(requirement.name)
    return _MODULES.get(name, name.replace("-", "_"))
