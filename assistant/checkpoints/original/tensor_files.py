"""Named tensors in files of several kinds, read one at a time, and written shard by shard: little is in memory."""

import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fourfold.assistant.checkpoints.damage import told_as_damage
from fourfold.assistant.files import replacing
from fourfold.assistant.progress import OnProgress, Progress
from fourfold.prompts.errors import UserError

Shape = tuple[int, ...]


@dataclass
class TensorFiles:
    """Tensors by name, of which nothing but names and shapes is in memory until one is read.

    Args:
        title: what the files are, for messages.
        paths: the files.
        shapes: shape of every tensor.
    """

    title: str
    paths: tuple[Path, ...]
    shapes: dict[str, Shape] = field(default_factory=dict)
    _readers: dict[str, Callable[[str], torch.Tensor]] = field(default_factory=dict, repr=False)

    def read(self, key: str) -> torch.Tensor:
        """The tensor called `key`, mapped from its file where the format allows it: copy before you change it."""
        return self._readers[key](key)

    def _add(self, path: Path, shapes: Mapping[str, Shape], reader: Callable[[str], torch.Tensor]) -> None:
        twice = sorted(self.shapes.keys() & shapes.keys())
        if twice:
            raise UserError(
                f"{self.title}: {path.name} holds {twice[0]} a second time; remove the files of another copy"
            )
        self.shapes.update(shapes)
        self._readers.update(dict.fromkeys(shapes, reader))


def open_pickled(title: str, path: Path) -> tuple[TensorFiles, Mapping[str, Any]]:
    """Open a `.pth` file that holds a state dict, alone or under "model" beside other things.

    Only tensors and plain containers are accepted: nothing in the file is run.

    Returns:
        The tensors, and what lies beside them (empty where the state dict is alone).

    Raises:
        UserError: the file is not there, is no such file, or holds other objects.
    """
    content = _unpickle(path)
    beside: Mapping[str, Any] = {}
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        beside = {key: value for key, value in content.items() if key != "model"}
        content = content["model"]
    files = TensorFiles(title, (path,))
    files._add(path, *_reader_of(title, path, content))
    return files, beside


def open_directory(title: str, directory: Path) -> TensorFiles:
    """Open a checkpoint directory of transformers: safetensors or `pytorch_model*.bin`, one file or shards.

    Raises:
        UserError: the directory has no weights, or shards that its index names are missing.
    """
    if not directory.is_dir():
        raise UserError(f"{title}: there is no directory {directory}")
    paths = _weight_files(title, directory)
    files = TensorFiles(title, paths)
    for path in paths:
        if path.suffix == ".safetensors":
            files._add(path, *_open_safetensors(path))
        else:
            files._add(path, *_reader_of(title, path, _unpickle(path)))
    return files


def _weight_files(title: str, directory: Path) -> tuple[Path, ...]:
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (directory / index).is_file():
            try:
                names = sorted(set(json.loads((directory / index).read_text(encoding="utf-8"))["weight_map"].values()))
                if any(name != Path(name).name or not name.isprintable() for name in names):
                    raise ValueError("a name that is a path")
                missing = [name for name in names if not (directory / name).is_file()]
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise UserError(f"{title}: {directory / index} is not an index of shards; download it again") from error
            if missing:
                raise UserError(f"{title}: {directory} lacks {shorten(missing)}; download the rest of it")
            return tuple(directory / name for name in names)
        if (directory / single).is_file():
            return (directory / single,)
    if any(directory.glob("consolidated.*.pth")):
        raise UserError(
            f"{title}: {directory} is in Meta's own format; use the same model in transformers' format "
            "(Llama-2-7b-chat-hf)"
        )
    raise UserError(f"{title}: {directory} has neither model.safetensors nor pytorch_model.bin, nor shards of them")


def _open_safetensors(path: Path) -> tuple[dict[str, Shape], Callable[[str], torch.Tensor]]:
    from safetensors import SafetensorError, safe_open

    _refuse_other_files(path)
    try:
        opened = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read ({error}); download it again") from error
    shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118

    def read(key: str) -> torch.Tensor:
        with told_as_damage(path):  # numbers of a kind that torch has no name for
            return opened.get_tensor(key)

    return shapes, read


def _reader_of(title: str, path: Path, content: Any) -> tuple[dict[str, Shape], Callable[[str], torch.Tensor]]:
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{title}: {path} holds no named tensors but {type(content).__name__}")
    others = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise UserError(f"{title}: {path} holds other things than tensors: {shorten(others)}")
    return {key: tuple(value.shape) for key, value in content.items()}, content.__getitem__


def _unpickle(path: Path) -> Any:
    _refuse_other_files(path)
    with told_as_damage(path):
        _refuse_packed(path)
        try:
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "mmap can only be used" not in str(error):
                    raise
                return torch.load(path, map_location="cpu", weights_only=True)  # the format before PyTorch 1.6
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{path} holds Python objects besides tensors (often its configuration, an OmegaConf object), which "
                'could run code when opened. Where you trust it, save the tensors alone: python -c "import torch; '
                f"m = torch.load('{path}', map_location='cpu', weights_only=False); "
                "torch.save({'model': m['model']}, 'tensors.pth')\" and convert tensors.pth"
            ) from error


def _refuse_packed(path: Path) -> None:
    """PyTorch packs nothing; a file that unpacks to a thousand times its size is a trap."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > path.stat().st_size:
                    raise UserError(f"{path} was packed once more ({member.filename[:60]!r}), which PyTorch never does")


def _refuse_other_files(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}") from error
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself; run git lfs pull where it lies")
    if start[:1] == b"<":
        raise UserError(
            f"{path} is a web page, not the file itself; the download asked for a confirmation, so get it again"
        )
    if not start:
        raise UserError(f"{path} is empty; download it again")


def shorten(keys: Iterable[str], most: int = 10) -> str:
    """Up to `most` keys on one line, and how many more there are."""
    listed = list(keys)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


@dataclass(frozen=True)
class Planned:
    """A tensor that is made when its turn comes.

    Args:
        shape: what it will have.
        make: reads or computes it, in any float dtype.
    """

    shape: Shape
    make: Callable[[], torch.Tensor]


def write_shards(
    directory: Path,
    tensors: Mapping[str, Planned],
    dtype: torch.dtype,
    shard_bytes: int,
    on_progress: OnProgress,
) -> int:
    """Write safetensors shards and their index; shards that an interrupted run finished stay.

    One shard is in memory at a time, and beside it the tensor that is being made. Each is written under another name
    and renamed, so that a shard that has its name is whole.

    Args:
        directory: where they go. It must hold nothing of another plan.
        tensors: all of them, in order.
        dtype: that they are written in.
        shard_bytes: upper limit of a shard; one bigger tensor gets a shard of its own.
        on_progress: told tensors done and in all.

    Returns:
        Bytes of all tensors.

    Raises:
        UserError: a tensor holds NaN or infinity, or numbers that `dtype` cannot hold.
    """
    shards = divide_into_shards(tensors, dtype.itemsize, shard_bytes)
    weight_map: dict[str, str] = {}
    done = 0
    for number, names in enumerate(shards, start=1):
        file = directory / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map.update(dict.fromkeys(names, file.name))
        if not file.exists():
            shard: dict[str, torch.Tensor] = {}
            for name in names:
                shard[name] = _made(name, tensors[name], dtype)
                on_progress(Progress("weights", done + len(shard), len(tensors)))
            with replacing(file) as part:
                save_file(shard, part, metadata={"format": "pt"})
        done += len(names)
        on_progress(Progress("weights", done, len(tensors)))
    size = sum(_count(planned.shape) for planned in tensors.values()) * dtype.itemsize
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    return size


def divide_into_shards(tensors: Mapping[str, Planned], itemsize: int, limit: int) -> list[list[str]]:
    shards: list[list[str]] = []
    room = 0
    for name, planned in tensors.items():
        size = _count(planned.shape) * itemsize
        if not shards or size > room:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    return shards


def _made(name: str, planned: Planned, dtype: torch.dtype) -> torch.Tensor:
    made = planned.make()
    if tuple(made.shape) != planned.shape:
        raise ValueError(f"{name} was planned as {planned.shape} and made as {tuple(made.shape)}")
    if not torch.isfinite(made).all():
        raise UserError(f"{name} holds NaN or infinity: a source file is damaged, download it again")
    # A copy always: what was read may be a view of a mapped file, which would hold on to the file's pages.
    cast = made.to(dtype, copy=True, memory_format=torch.contiguous_format)
    if not torch.isfinite(cast).all():
        raise UserError(f"{name} has numbers too big for {str(dtype).removeprefix('torch.')}; use --dtype bfloat16")
    return cast


def _count(shape: Shape) -> int:
    return torch.Size(shape).numel()
