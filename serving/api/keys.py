"""API keys: where they come from, how they are compared, how often each may be used."""

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fourfold.prompts.errors import UserError

KEYS_VARIABLE = "FOURFOLD_API_KEYS"
ADMIN_KEY_VARIABLE = "FOURFOLD_ADMIN_KEY"


@dataclass(frozen=True)
class Key:
    """One API key. The key itself is not kept, so that no log, dump or traceback can show it.

    Attributes:
        name: What logs call it.
        digest: SHA-256 of the key.
        per_minute: Requests allowed a minute; None for no limit.
        admin: May also load and unload adapters.
    """

    name: str
    digest: bytes
    per_minute: int | None = None
    admin: bool = False


class KeyRing:
    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self.keys)

    def find(self, token: str) -> Key | None:
        """The key that `token` is, or None. Takes the same time wherever the match is and whether there is one."""
        digest = _digest(token)
        found = None
        for key in self.keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def collect_keys(
    flags: Iterable[str], file: Path | None, environment: Mapping[str, str], per_minute: int | None = None
) -> KeyRing:
    """Keys from the command line, a file and the environment together.

    The environment's `FOURFOLD_API_KEYS` holds keys separated by commas, `FOURFOLD_ADMIN_KEY` one admin key. A key file
    has one key a line, optionally followed by `name=alice`, `per-minute=60` and `admin`; `#` starts a comment line.

    Args:
        flags: Keys given as options.
        per_minute: Limit of keys that state none.

    Raises:
        UserError: The file cannot be read or is empty, one of its options is unknown, or a key is weak or given twice.
    """
    given = [(f"--api-key number {number}", [text]) for number, text in enumerate(flags, 1)]
    listed = [text.strip() for text in environment.get(KEYS_VARIABLE, "").split(",") if text.strip()]
    given += [(f"{KEYS_VARIABLE} number {number}", [text]) for number, text in enumerate(listed, 1)]
    if admin_key := environment.get(ADMIN_KEY_VARIABLE, "").strip():
        given.append((ADMIN_KEY_VARIABLE, [admin_key, "admin"]))
    if file is not None:
        given += _lines_of(file)
    keys: list[Key] = []
    for place, words in given:
        key = _parse(place, words, per_minute)
        if any(other.digest == key.digest for other in keys):
            raise UserError(f"{place} repeats a key that was given before; give each user a key of their own")
        keys.append(key)
    return KeyRing(keys)


class RateLimiter:
    """Token buckets: each key may spend its minute's allowance at once and then earns it back evenly."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[Key, tuple[float, float]] = {}

    def spend(self, key: Key) -> float:
        """Take one request from the allowance: 0.0 when allowed, otherwise the seconds until the next one is."""
        if key.per_minute is None:
            return 0.0
        now = self._clock()
        left, then = self._buckets.get(key, (float(key.per_minute), now))
        left = min(key.per_minute, left + (now - then) * key.per_minute / 60)
        if left < 1:
            self._buckets[key] = (left, now)
            return (1 - left) * 60 / key.per_minute
        self._buckets[key] = (left - 1, now)
        return 0.0


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _lines_of(file: Path) -> list[tuple[str, list[str]]]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"the key file {file} cannot be read ({reason}); check --api-key-file") from None
    lines = [(f"{file}, line {number}", line.split()) for number, line in enumerate(text.splitlines(), 1)]
    keys = [(place, words) for place, words in lines if words and not words[0].startswith("#")]
    if not keys:
        raise UserError(f"the key file {file} holds no key; write one key a line")
    return keys


def _parse(place: str, words: list[str], per_minute: int | None) -> Key:
    secret, *options = words
    if len(secret) < 16 or not (secret.isascii() and secret.isprintable()):
        advice = "make one with: openssl rand -hex 24"
        raise UserError(f"{place}: a key needs at least 16 printable ASCII characters; {advice}")
    name, limit, admin = place, per_minute, False
    for option in options:
        label, _, value = option.partition("=")
        if option == "admin":
            admin = True
        elif label == "name" and value.isprintable() and value:
            name = value
        elif label == "per-minute" and value.isdecimal() and int(value) > 0:
            limit = int(value)
        else:
            raise UserError(f"{place}: after the key only name=NAME, per-minute=NUMBER and admin may stand")
    return Key(name=name, digest=_digest(secret), per_minute=limit, admin=admin)
