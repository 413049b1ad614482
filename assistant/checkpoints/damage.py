"""Files of strangers that say what they hold: whatever reading one raises is said in a sentence."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fourfold.prompts.errors import UserError

LONGEST_HEADER = 100_000_000
"""Bytes of a safetensors file's header; the format's own readers take no longer one."""
_LARGEST = {
    "num_hidden_layers": 1000,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 2**14,
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "vocab_size": 2**22,
    "max_position_embeddings": 2**24,
    "image_size": 2**13,
    "patch_size": 2**10,
    "num_channels": 3,
    "fold": 2**10,
}
"""Numbers of a configuration that say how much is made, each several times the largest in use."""
_BACKED = ("hidden_size", "intermediate_size", "vocab_size")


@contextmanager
def told_as_damage(path: Path, what: str = "download it again") -> Iterator[None]:
    """Turn what a reader of damaged files raises, which is almost anything, into one line.

    Args:
        path: of the file or directory.
        what: to do about it.

    Raises:
        UserError: reading failed.
    """
    try:
        yield
    except (UserError, ImportError, NameError):  # the last is of no file, but of a program with a mistake
        raise
    except MemoryError as error:
        raise UserError(f"{path} asks for more memory than there is; {what}") from error
    except Exception as error:
        said = " ".join("".join(c if c.isprintable() else " " for c in f"{error}").split())
        reason = said.partition(". ")[0][:200] or type(error).__name__
        raise UserError(f"{path} is damaged or incomplete ({reason}); {what}") from error


def check_sizes(config: Mapping[str, Any], where: Path) -> None:
    """See that no number of a model's configuration has its reader make layers for hours, or tables for terabytes.

    Args:
        config: of a `config.json`; those of its parts in it are looked at too.
        where: the file, for messages.

    Raises:
        UserError: one is no whole number above 0, or far beyond that of any model.
    """
    for part in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        for name, most in _LARGEST.items():
            value = part.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
                raise UserError(f"{where} says {name}: {str(value)[:40]}; it must be a whole number of 1 to {most:,}")


def check_backed(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: Path) -> None:
    """See that the widths of a language model's configuration are those of tensors that its files hold.

    Of a configuration that asks for more, a loader would make what is missing, out of nothing, in all its size.

    Args:
        config: of the language model.
        shapes: of all tensors, by name.
        where: the file of the configuration, for messages.

    Raises:
        UserError: one is of no tensor, or there are more layers than the files have.
    """
    sides = {side for shape in shapes.values() for side in shape}
    for name in _BACKED:
        if (value := config.get(name)) is not None and value not in sides:
            raise UserError(f"{where} says {name}: {value}, and no tensor of the weights has that size")
    held = {name.partition("language_model.layers.")[2].partition(".")[0] for name in shapes}
    layers = sum(number.isdigit() for number in held)
    if (wanted := config.get("num_hidden_layers")) is not None and layers and wanted != layers:
        raise UserError(f"{where} says num_hidden_layers: {wanted}, and the weights have {layers} layers")


def read_header(path: Path) -> dict[str, tuple[int, ...]] | None:
    """Shapes of a safetensors file's tensors by name; None where it is not as long as its header says.

    A file is 8 bytes of length, a JSON header, and the data.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER or size < 8 + length:
            return None
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
            shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            return None
    sound = all(isinstance(side, int) and side >= 0 for shape in shapes.values() for side in shape)
    return shapes if sound and size == 8 + length + end else None
