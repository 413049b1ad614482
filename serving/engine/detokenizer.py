"""Tokens to text, piece by piece: never half a character, never a part of a stop string."""

from typing import Any


class IncrementalDetokenizer:
    """Turns one answer's tokens into text.

    The pieces concatenated are `tokenizer.decode(all tokens, skip_special_tokens=True)`, cut before the first stop
    string (the one that is complete first).
    """

    def __init__(self, tokenizer: Any, stops: tuple[str, ...] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._tokenizer = tokenizer
        self._stops = stops
        self._held = ""
        self._ids: list[int] = []
        # Tokens are decoded in a window that begins one piece early, since a token's text may depend on what stands
        # before it (sentencepiece drops a space at the very start).
        self._window = 0
        self._read = 0

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; "" while a character or a stop string may still be open."""
        self._ids.append(token_id)
        piece = self._new_text()
        if piece.endswith("�"):  # perhaps the first bytes of a character
            return ""
        self._window, self._read = self._read, len(self._ids)
        return self._release(piece, last=False)

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

    def _release(self, piece: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        self._held += piece
        # The stop string that is complete first counts, however the text was cut into tokens.
        found = [(place + len(stop), place) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            out = self._held[: min(found)[1]]
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
