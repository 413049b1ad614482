"""The weights of a checkpoint where they lie on disk, as arrays of numpy; nothing here imports torch."""

import contextlib
import ctypes
import json
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fourfold.assistant.checkpoints.index import INDEX, WEIGHTS

_DTYPES: dict[str, type] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_WHOLE: dict[str, type] = {"I64": np.int64, "I32": np.int32, "I8": np.int8, "U8": np.uint8}


@dataclass(frozen=True)
class _Tensor:
    name: str
    path: Path
    mapping: mmap.mmap
    dtype: str
    shape: tuple[int, ...]
    begin: int

    def flat(self, count: int, dtypes: Mapping[str, type] = _DTYPES) -> np.ndarray:
        """The first `count` numbers, in float32, where they are of one of the `dtypes`."""
        if self.dtype not in dtypes:
            raise ValueError(f"{self.name} in {self.path.name} is of {self.dtype}, which is not read here")
        raw: np.ndarray = np.frombuffer(self.mapping, dtypes[self.dtype], count, self.begin)
        if self.dtype == "BF16":  # the upper half of float32
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32, copy=False)


class MappedWeights(Mapping[str, np.ndarray]):
    """Tensors of safetensors files by name, each in float32.

    One that is float32 in its file is that part of the file itself, read when it is looked at and not to be written;
    others are converted whenever they are asked for.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged. So it is where a tensor is asked for that holds no numbers with a fraction.
        KeyError, TypeError, AttributeError: its header lacks what the format demands.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._tensors: dict[str, _Tensor] = {}
        for file in files:
            self._add(file)

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        return tensor.flat(math.prod(tensor.shape)).reshape(tensor.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def first_row(self, name: str) -> np.ndarray:
        """The numbers of a tensor under the first index of its first dimension, end to end; whole ones too."""
        return self._tensors[name].flat(math.prod(self.shape(name)[1:]), _DTYPES | _WHOLE)

    def forget_pages(self) -> None:
        """Give the memory of what was read back to the system, which reads the file again when it is looked at."""
        for mapping in {id(tensor.mapping): tensor.mapping for tensor in self._tensors.values()}.values():
            if hasattr(mapping, "madvise"):  # not on Windows
                mapping.madvise(mmap.MADV_DONTNEED)

    def _add(self, path: Path) -> None:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        begin = 8 + int.from_bytes(mapping[:8], "little")
        for name, entry in json.loads(mapping[8:begin]).items():
            if name != "__metadata__":
                first = begin + entry["data_offsets"][0]
                self._tensors[name] = _Tensor(name, path, mapping, entry["dtype"], tuple(entry["shape"]), first)


class _Under(Mapping[str, np.ndarray]):
    def __init__(self, prefix: str, tensors: Mapping[str, np.ndarray]) -> None:
        self._prefix, self.tensors = prefix, tensors

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self.tensors if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def give_memory_back(tensors: Mapping[str, np.ndarray]) -> None:
    """Give the system what was read of mapped tensors, and what glibc keeps of memory that was freed."""
    while isinstance(tensors, _Under):
        tensors = tensors.tensors
    if isinstance(tensors, MappedWeights):
        tensors.forget_pages()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # with another library than glibc, or on Windows
        ctypes.CDLL(None).malloc_trim(0)


def under(module: str, tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The tensors of one module, by their names in it."""
    return _Under(f"{module}.", tensors)


def weight_files(directory: Path) -> list[Path]:
    """The files of a checkpoint that hold its weights, as transformers chooses them.

    Raises:
        OSError, ValueError, KeyError: there are none, or their index is damaged.
    """
    if (directory / WEIGHTS).exists():
        return [directory / WEIGHTS]
    index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
    return sorted({directory / name for name in index["weight_map"].values()})
