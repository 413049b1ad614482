"""Which fields of OpenAI's request an endpoint takes: learnt from what it refuses."""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

_LOGPROBS = (20, 5)
"""How many alternatives a token may be asked for with; some servers list five at most."""
_LENGTHS = ("max_tokens", "max_completion_tokens", "")
_DROPPED = ("temperature", "seed", "memory", "chat_template_kwargs")
_OWN = frozenset({"memory", "chat_template_kwargs"})  # no fields of OpenAI's


@dataclass(frozen=True)
class Dialect:
    """A way of asking the same question.

    Attributes:
        length: the field that bounds the answer; "" for none, where the server's own bound holds.
        dropped: fields that are left out.
        logprobs: alternatives of a token that are asked for; 0 for none.
    """

    length: str = _LENGTHS[0]
    dropped: frozenset[str] = frozenset()
    logprobs: int = _LOGPROBS[0]

    def fields(self, *, max_tokens: int, seed: int, ranked: bool, template: Mapping[str, bool]) -> dict[str, Any]:
        """What goes beside model and messages, as the client takes it."""
        wanted: dict[str, Any] = {"temperature": 0, "seed": seed, "memory": False}
        if template:
            wanted["chat_template_kwargs"] = dict(template)
        wanted = {name: value for name, value in wanted.items() if name not in self.dropped}
        if self.length:
            wanted[self.length] = max_tokens
        if ranked and self.logprobs:
            wanted |= {"logprobs": True, "top_logprobs": self.logprobs}
        own = {name: wanted.pop(name) for name in _OWN if name in wanted}
        return {**wanted, "extra_body": own}

    def otherwise(self, refusal: str, sent: Set[str], taken: Set[str]) -> "Dialect | None":
        """How to ask again after a refusal, which may name the field that it is about; None for no other way.

        Args:
            refusal: what the server said.
            sent: the fields that went out.
            taken: those that it has taken before, which are not the matter.
        """
        doubted = sent - taken
        named = {field for field in doubted if re.search(rf"\b{field}\b", refusal)}
        changed = self
        # Where nothing is named, fields that OpenAI does not have are the first to go.
        for field in named or doubted & _OWN or doubted:
            changed = changed._without(field)
        return changed if changed != self else None

    def _without(self, field: str) -> "Dialect":
        if field == self.length:
            return replace(self, length=_LENGTHS[_LENGTHS.index(field) + 1])
        if field in ("logprobs", "top_logprobs"):
            fewer = [count for count in _LOGPROBS if count < self.logprobs]
            return replace(self, logprobs=fewer[0] if fewer and field == "top_logprobs" else 0)
        return replace(self, dropped=self.dropped | {field}) if field in _DROPPED else self

    @property
    def told(self) -> dict[str, Any]:
        """How it differs from the ordinary way, for the log."""
        left_out = self.dropped - _OWN | ({_LENGTHS[0]} if self.length != _LENGTHS[0] else set())
        return {"asked_without": sorted(left_out)} if left_out else {}


def sent_fields(fields: Mapping[str, Any]) -> frozenset[str]:
    """The names of all that went out beside model and messages."""
    return frozenset(fields) - {"extra_body"} | frozenset(fields["extra_body"])
