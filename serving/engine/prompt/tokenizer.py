"""A checkpoint's tokenizer by the package `tokenizers` alone, with the names that transformers has for what it does."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

_PLAIN_CLASSES = {"TokenizersBackend", "PreTrainedTokenizerFast"}
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Settings that change nothing of what is said here; with any other, transformers is asked what it means.
_HARMLESS = {
    *_SPECIAL,
    *("auto_map", "backend", "clean_up_tokenization_spaces", "extra_special_tokens", "is_local", "local_files_only"),
    *("model_max_length", "name_or_path", "padding_side", "processor_class", "tokenizer_class"),
}


class PlainTokenizer:
    """What `tokenizer.json` says, special tokens by `tokenizer_config.json`. Thread-safe.

    Raises:
        OSError, ValueError, TypeError, KeyError: the files are missing or damaged, or need transformers to be read.
    """

    def __init__(self, directory: Path) -> None:
        settings = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
        if strange := sorted(settings.keys() - _HARMLESS):
            raise ValueError(f"tokenizer_config.json has {strange[0]}")
        if settings["tokenizer_class"] not in _PLAIN_CLASSES or "AutoTokenizer" in settings.get("auto_map", ()):
            raise ValueError(f"tokenizer_config.json asks for {settings['tokenizer_class']}")
        if settings.get("clean_up_tokenization_spaces"):
            raise ValueError("tokenizer_config.json has spaces taken out of texts")
        text = (directory / "tokenizer.json").read_text(encoding="utf-8")
        try:
            self.backend_tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # of no class of its own
            raise ValueError(f"tokenizer.json: {error}") from error
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()
        self.special_tokens_map: dict[str, str] = {
            name: value for name in _SPECIAL if (value := settings.get(name)) is not None
        }
        named = [*self.special_tokens_map.values(), *settings.get("extra_special_tokens", ())]
        added = self.backend_tokenizer.get_added_tokens_decoder()
        self.all_special_ids = sorted(token_id for token_id, token in added.items() if token.special)
        if unknown := set(named) - {added[token_id].content for token_id in self.all_special_ids}:
            raise ValueError(f"tokenizer.json has no special token {min(unknown)}")

    def __call__(
        self, text: str, *, add_special_tokens: bool = True, return_offsets_mapping: bool = False
    ) -> dict[str, Any]:
        """`input_ids`, and with `return_offsets_mapping` where each token stands in the text, (begin, end)."""
        encoding = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
        offsets = {"offset_mapping": encoding.offsets} if return_offsets_mapping else {}
        return {"input_ids": encoding.ids, **offsets}

    def __len__(self) -> int:
        return self._size

    @cached_property
    def _size(self) -> int:
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def eos_token_id(self) -> int | None:
        token = self.special_tokens_map.get("eos_token")
        return None if token is None else self.backend_tokenizer.token_to_id(token)

    def decode(
        self, ids: Sequence[int], *, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> str:
        """The text of tokens; its spaces stay as they are."""
        assert not clean_up_tokenization_spaces
        return self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> Any:
        """The name of a token, or the names of several; None where there is no such token."""
        if isinstance(ids, int):
            return self.backend_tokenizer.id_to_token(ids)
        return [self.backend_tokenizer.id_to_token(token_id) for token_id in ids]
