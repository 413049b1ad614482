"""Values from files as typed records, by pydantic; what is wrong with them is said in one line that names the place."""

from functools import cache
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fourfold.prompts.errors import UserError

T = TypeVar("T")
FORBID_UNKNOWN = ConfigDict(extra="forbid", revalidate_instances="always")
"""For `pydantic.with_config` on a dataclass or TypedDict whose unknown keys are mistakes."""


_adapter = cache(TypeAdapter)  # building one takes longer than using it


def validated(kind: type[T], values: Any, where: str = "") -> T:
    """`values` as a `kind`: dataclasses from mappings, tuples from lists, numbers from text, and so on.

    Args:
        kind: a dataclass, a TypedDict, or any annotation.
        values: plain, as JSON and YAML give them.
        where: names their origin in the message.

    Raises:
        UserError: a setting is unknown, missing, of the wrong type or out of range.
    """
    try:
        return _adapter(kind).validate_python(values)  # type: ignore[arg-type]
    except ValidationError as error:
        text = reason(error)
        raise UserError(f"{where}: {text}" if where else text) from None


def reason(error: ValidationError) -> str:
    """The first thing that is wrong: `stages[1].steps is missing`."""
    first = error.errors(include_url=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    match first["type"]:
        case "missing":
            return f"{place} is missing"
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"{place} is unknown"
        case "value_error":
            text = str(first["ctx"]["error"])
        case "dataclass_type" | "dict_type" | "mapping_type":
            text = "must be a mapping of names to values"
        case _:
            text = (first["msg"][:1].lower() + first["msg"][1:]).replace("tuple", "list")
    return f"{place}: {text}" if place else text
