"""Tokens to text, piece by piece: never half a character, never a part of a stop string."""

import re
from collections.abc import Sequence
from typing import Any

from tokenizers import decoders

_PRINTED = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
_BYTES = {chr(byte): byte for byte in _PRINTED} | {chr(256 + place): byte for place, byte in enumerate(_OTHERS)}
"""Byte-level vocabularies write each byte as one printable character: GPT-2's way, which all of them took over."""


class TokenBytes:
    """The bytes that each token stands for; a character may be spread over several tokens.

    Args:
        tokenizer: a byte-level BPE, or one of SentencePiece's with tokens for single bytes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._byte_level = isinstance(tokenizer.backend_tokenizer.decoder, decoders.ByteLevel)

    def __call__(self, token_id: int, *, first: bool) -> bytes:
        """Of a token in an answer, where it may be the `first` one; a special token stands for nothing."""
        if token_id in self._special:
            return b""
        name = self._tokenizer.convert_ids_to_tokens(token_id)
        if name is None:  # the embedding has rows that the vocabulary lacks
            return b""
        if self._byte_level:
            if all(character in _BYTES for character in name):
                return bytes(_BYTES[character] for character in name)
            return name.encode()  # added to the vocabulary as it is
        match = re.fullmatch("<0x([0-9A-F]{2})>", name)
        whole = bytes.fromhex(match[1]) if match else name.replace("▁", " ").encode()
        return whole.removeprefix(b" ") if first else whole  # SentencePiece drops the space before the first word


class IncrementalDetokenizer:
    """Turns one answer's tokens into text.

    The pieces concatenated are `tokenizer.decode(all tokens, skip_special_tokens=True)`, cut before the first stop
    string (the one that is complete first).

    Args:
        before: tokens that the answer goes on from, where it is the rest of a text.

    Attributes:
        text: so far.
        stop_reason: the stop string at which the text ended; None before it has.
    """

    def __init__(self, tokenizer: Any, stops: tuple[str, ...] = (), before: Sequence[int] = ()) -> None:
        self.text = ""
        self.stop_reason: str | None = None
        self._tokenizer = tokenizer
        self._stops = stops
        self._held = ""
        self._ids: list[int] = [*before]
        # Tokens are decoded in a window that begins one piece early, since a token's text may depend on what stands
        # before it (sentencepiece drops a space at the very start).
        self._window = 0
        self._read = len(self._ids)

    @property
    def stopped(self) -> bool:
        return self.stop_reason is not None

    def push(self, token_id: int, *, may_stop: bool = True) -> str:
        """The text that became certain with this token; "" while a character or a stop string may still be open.

        Where it may not stop, no stop string is looked for in it.
        """
        self._ids.append(token_id)
        piece = self._new_text()
        if piece.endswith("�"):  # perhaps the first bytes of a character
            return ""
        self._window, self._read = self._read, len(self._ids)
        return self._release(piece, last=not may_stop, may_stop=may_stop)

    def finish(self) -> str:
        """What was held back, when no token follows."""
        piece = self._new_text()
        self._read = len(self._ids)
        return self._release(piece, last=True)

    def _new_text(self) -> str:
        if self._read == len(self._ids):
            return ""
        before = self._decode(self._ids[self._window : self._read])
        return self._decode(self._ids[self._window :])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _release(self, piece: str, *, last: bool, may_stop: bool = True) -> str:
        if self.stop_reason is not None:
            return ""
        self._held += piece
        # The stop string that is complete first counts, however the text was cut into tokens.
        stops = self._stops if may_stop else ()
        found = [(place + len(stop), place, stop) for stop in stops if (place := self._held.find(stop)) >= 0]
        if found:
            _, place, self.stop_reason = min(found)
            out = self._held[:place]
        elif last:
            out = self._held
        else:
            out = self._held[: len(self._held) - self._open_stop()]
        self._held = self._held[len(out) :]
        self.text += out
        return out

    def _open_stop(self) -> int:
        """Length of the longest end of the held text that could become a stop string."""
        longest = min(max((len(stop) for stop in self._stops), default=1) - 1, len(self._held))
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
