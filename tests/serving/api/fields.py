"""The table of docs/api-fields.md: written from the packages' own types and the server's, and read again."""

import re
import typing
from collections.abc import Iterable
from pathlib import Path

from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)

from fourfold.serving.api.chat_fields import IGNORED, REFUSED
from fourfold.serving.api.chat_schema import ChatRequest

PAGE = Path(__file__).parents[3] / "docs" / "api-fields.md"
_ROW = re.compile(r"^\| `(\w+)` \| ([^|]*) \| (\w+) \| ([^|]*) \|$", re.MULTILINE)
_HEAD = "| field | of | here | |\n|---|---|---|---|\n"


def openai_fields() -> set[str]:
    """All that the `openai` package can send."""
    return {
        name
        for params in (CompletionCreateParamsNonStreaming, CompletionCreateParamsStreaming)
        for name in typing.get_type_hints(params)
    }


def listed_fields(package: str) -> set[str]:
    """The fields that the page says a package has."""
    return {name for name, of, _, _ in _ROW.findall(PAGE.read_text(encoding="utf-8")) if package in of.split(", ")}


def table(vllm: Iterable[str]) -> str:
    """The table, where vLLM's request has the fields `vllm`."""
    known = {name: field.description or "" for name, field in ChatRequest.model_fields.items()}
    openai, of_vllm = openai_fields(), set(vllm)
    lines = []
    for name in sorted({*openai, *of_vllm, *known, *REFUSED, *IGNORED}):
        packages = [package for package, names in (("OpenAI", openai), ("vLLM", of_vllm)) if name in names]
        if not packages:
            packages = ["ours" if name in ("forced_answer", "memory") else "vLLM before"]
        kind = "honoured" if name in known else "refused" if name in REFUSED else "ignored" if name in IGNORED else "?"
        note = known.get(name) or REFUSED.get(name) or IGNORED.get(name) or ""
        lines.append(f"| `{name}` | {', '.join(packages)} | {kind} | {note} |")
    return _HEAD + "\n".join(lines) + "\n"
