"""Tables of questions: VLMEvalKit's TSV, and Hugging Face data sets as they lie on a disk (Parquet, Arrow).

Of a table all but its images is in memory; an image is read when somebody asks for it. Nothing here uses the network.
"""

import ast
import base64
import binascii
import csv
import hashlib
import re
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.eval.data.pictures import JoinedImage, Picture, StoredImage
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    import pyarrow

_TABLES = frozenset({".tsv", ".parquet", ".arrow"})
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?$")
_LONGEST_INDEX = 64  # VLMEvalKit's own bound: what is shorter in the column `image` is the index of another row
_IMAGE_COLUMN = re.compile(r"(?:query_|decoded_)?image(?:_\d+)?|images|img")

Row = dict[str, Any]


class Table:
    """Rows of questions; in each, `pictures` holds its images in the order of the columns.

    Args:
        files: of one split, in order.

    Attributes:
        rows: column -> value, without the images.
        pictures: of each row, () for none.
    """

    def __init__(self, files: tuple[Path, ...]) -> None:
        self.files = files
        self.rows: list[Row] = []
        self.pictures: list[tuple[StoredImage, ...]] = []
        for path in files:
            part = _Tsv(path) if path.suffix == ".tsv" else _Columnar(path)
            for row, pictures in part.read():
                self.rows.append(row)
                self.pictures.append(pictures)
        if not self.rows:
            raise UserError(f"{files[0]} holds no questions")

    def picture(self, number: int) -> Picture | None:
        """What row `number` is about: its image, several of them side by side, or None."""
        found = self.pictures[number]
        return None if not found else found[0] if len(found) == 1 else JoinedImage(found)

    @cached_property
    def by_id(self) -> dict[str, Picture]:
        """The rows' pictures by their ids."""
        found = (self.picture(number) for number in range(len(self.rows)))
        return {picture.id: picture for picture in found if picture is not None}

    @property
    def joined(self) -> int:
        """How many rows have more than one image."""
        return sum(len(one) > 1 for one in self.pictures)


def is_table(path: Path) -> bool:
    """Whether a path is read as a table and not as a benchmark's official JSON."""
    return path.suffix in _TABLES or (path.is_dir() and bool(_split_files(path)))


@lru_cache(maxsize=4)  # scoring and asking read the same one
def open_table(path: Path, split: str | None = None) -> Table:
    """The table at a path: a file, or a folder with one split or with the one named.

    Raises:
        UserError: there is none, there are several splits and none is named, or a file is damaged.
    """
    return Table(table_files(path, split))


def picture_at(reference: str) -> Picture | None:
    """The picture whose id this is; None for what names no cell of a table.

    Raises:
        UserError: the table can no longer be read.
    """
    path, mark, _ = reference.partition("#")
    if not mark or Path(path).suffix not in _TABLES:
        return None
    return open_table(Path(path)).by_id.get(reference)


def table_files(path: Path, split: str | None = None) -> tuple[Path, ...]:
    """The files of a table, as `open_table` chooses them.

    Raises:
        UserError: as there.
    """
    if path.is_file():
        return (path,)
    splits = _split_files(path) if path.is_dir() else {}
    if not splits:
        raise UserError(f"no Parquet, Arrow or TSV file at {path}")
    if split is None:
        if len(splits) > 1:
            raise UserError(f"{path} has {len(splits)} splits: name one by --split {', '.join(sorted(splits)[:12])}")
        return _complete(next(iter(splits.values())))
    # MMMU keeps every subject in a folder of its own: a split named without its folder is all of them together.
    chosen = [name for name in splits if name == split] or [name for name in splits if name.split("/")[-1] == split]
    if not chosen:
        raise UserError(f"{path} has no split {split!r}; there are: {', '.join(sorted(splits)[:12])}")
    return tuple(file for name in chosen for file in _complete(splits[name]))


def _complete(files: tuple[Path, ...]) -> tuple[Path, ...]:
    """The shards of a split; UserError where one of those that their names count is not there."""
    counted = [(int(found[1]), int(found[2])) for file in files if (found := _SHARD.search(file.stem))]
    if len(counted) == len(files) and len({of for _, of in counted}) == 1:
        there, of = {number for number, _ in counted}, counted[0][1]
        if missing := [number for number in range(of) if number not in there]:
            raise UserError(
                f"{files[0].parent} has {len(there)} of {of} files of this split: number {missing[0]} is missing, such "
                f"as after a download that broke off; name a file itself to take it alone"
            )
    return files


def _split_files(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Split -> its shards. A cache of the Hub keeps the files of every revision apart: the newest is read."""
    snapshots = folder / "snapshots"
    if snapshots.is_dir() and (revisions := [one for one in snapshots.iterdir() if one.is_dir()]):
        folder = max(revisions, key=lambda one: one.stat().st_mtime)
    splits: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in _TABLES and not path.name.startswith(".") and "cache-" not in path.name:
            relative = path.relative_to(folder)
            parts = [part for part in relative.parts[:-1] if part != "data"]
            # `save_to_disk` calls every shard of a split's folder "data", and names the split by the folder.
            stem = _SHARD.sub("", path.stem)
            name = "/".join(parts if path.suffix == ".arrow" and parts else [*parts, stem])
            splits.setdefault(name, []).append(path)
    return {name: tuple(files) for name, files in splits.items()}


class _Tsv:
    """A tab-separated file with a header; images stand in base64 in the column `image`.

    VLMEvalKit writes the index of another row there where the image is the same, and a list where there are several.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets: list[int] = []
        self._header: list[str] = []

    def read(self) -> Iterator[tuple[Row, tuple[StoredImage, ...]]]:
        """Every row without its image, and its images."""
        places: dict[str, int] = {}  # index -> the row that holds the image itself
        found: list[tuple[Row, str]] = []
        for offset, cells in self._records(0):
            if not self._header:
                self._header = cells
                if len(cells) < 2:
                    raise UserError(f"{self.path} is no table: its first line has no tab")
                continue
            if len(cells) != len(self._header):
                raise UserError(
                    f"{self.path}, row {len(found) + 1} has {len(cells)} columns, the header has {len(self._header)}; "
                    "is the file complete?"
                )
            row: Row = {name: value for name, value in zip(self._header, cells, strict=True) if value != ""}
            image = row.pop("image", "")
            if len(image) > _LONGEST_INDEX:
                places.setdefault(str(row.get("index", len(found))), len(found))
                image = "[" if image.startswith("[") else "own"
            if image == "[":
                row["_images"] = len(_list(cells[self._header.index("image")]))
            self._offsets.append(offset)
            found.append((row, image))
        for number, (row, image) in enumerate(found):
            if not image:
                yield row, ()
                continue
            place = number if image in ("own", "[") else places.get(image)
            if place is None:
                raise UserError(f"{self.path}, row {number + 1}: its image is that of row {image!r}, which has none")
            count = found[place][0].get("_images", 1)
            yield (
                {name: value for name, value in row.items() if name != "_images"},
                tuple(StoredImage(self, place, "image", one) for one in range(count)),
            )

    def image_bytes(self, row: int, column: str, place: int) -> bytes:
        """Read at the row's offset; the row is parsed alone."""
        _, cells = next(self._records(self._offsets[row]))
        value = cells[self._header.index(column)]
        encoded = _list(value)[place] if value.startswith("[") else value
        try:
            return base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise UserError(f"{self.path}, row {row + 1}: its image is no base64") from None

    def _records(self, offset: int) -> Iterator[tuple[int, list[str]]]:
        """Records from `offset` on, each with the offset where it begins; quoted ones may have line breaks."""
        csv.field_size_limit(2**31 - 1)
        with self.path.open("rb") as file:
            file.seek(offset)
            begins = position = offset

            def lines() -> Iterator[str]:
                for line in file:
                    nonlocal position
                    position += len(line)
                    yield line.decode("utf-8-sig" if position == len(line) else "utf-8")

            try:
                for record in csv.reader(lines(), delimiter="\t"):
                    if record:
                        yield begins, record
                    begins = position
            except (UnicodeDecodeError, csv.Error) as error:
                raise UserError(f"{self.path} is no table that can be read: {error}") from None


def _list(text: str) -> list[str]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return [text]
    return [str(one) for one in value] if isinstance(value, (list, tuple)) else [text]


class _Columnar:
    """A Parquet file, or the Arrow stream of `datasets`; images are structs of `bytes` and `path`, or bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: tuple[tuple[int, str], Any] | None = None
        self._starts: list[int] = []  # first row of each row group

    def read(self) -> Iterator[tuple[Row, tuple[StoredImage, ...]]]:
        """Every row without its images, and its images."""
        import pyarrow
        import pyarrow.parquet

        try:
            if self.path.suffix == ".parquet":
                with pyarrow.parquet.ParquetFile(self.path) as file:
                    self._starts = [0]
                    for group in range(file.num_row_groups):
                        self._starts.append(self._starts[-1] + file.metadata.row_group(group).num_rows)
                    schema = file.schema_arrow
                    images = [name for name in schema.names if _holds_images(name, schema.field(name).type)]
                    # Of images only whether they are there: the leaf `path` is enough to know that.
                    leaves = [_leaf(name, schema.field(name).type) for name in images]
                    columns = [name for name in schema.names if name not in images] + leaves
                    table = file.read(columns=columns)
            else:
                table = self._stream()
                images = [name for name in table.schema.names if _holds_images(name, table.schema.field(name).type)]
        except (pyarrow.ArrowInvalid, OSError) as error:
            if self.path.is_file() and self.path.open("rb").read(20).startswith(b"version https://git"):
                raise UserError(
                    f"{self.path} is a pointer of Git LFS; `git lfs pull` fetches what it stands for"
                ) from None
            raise UserError(f"{self.path} is no Parquet or Arrow file that can be read: {error}") from None
        counts = {name: _image_counts(table.column(name)) for name in images}
        for number, row in enumerate(table.drop_columns(images).to_pylist()):
            yield (
                {name: value for name, value in row.items() if value is not None},
                tuple(
                    StoredImage(self, number, name, place) for name in images for place in range(counts[name][number])
                ),
            )

    def image_bytes(self, row: int, column: str, place: int) -> bytes:
        """From the row's group, which is kept for the next one; a path beside the file stands for its bytes."""
        import bisect

        import pyarrow.parquet

        group = bisect.bisect_right(self._starts, row) - 1 if self._starts else 0
        kept = self._kept
        if kept is None or kept[0] != (group, column):
            if self._starts:
                with pyarrow.parquet.ParquetFile(self.path) as file:
                    values = file.read_row_group(group, columns=[column]).column(0)
            else:
                values = self._stream().column(column)
            kept = self._kept = ((group, column), values)  # one assignment: threads may ask at once
        cell = kept[1][row - (self._starts[group] if self._starts else 0)].as_py()
        if isinstance(cell, list):
            cell = cell[place]
        if isinstance(cell, dict):
            name = cell.get("path")
            cell = cell.get("bytes")
            if cell is None and name and (file_beside := self.path.parent / name).is_file():
                cell = file_beside.read_bytes()
        if not isinstance(cell, bytes):
            raise UserError(f"{self.path}, row {row + 1}: the column {column} holds no image")
        return cell

    def _stream(self) -> "pyarrow.Table":
        import pyarrow

        source = pyarrow.memory_map(str(self.path))
        return pyarrow.ipc.open_stream(source).read_all()


def _holds_images(name: str, kind: "pyarrow.DataType") -> bool:
    import pyarrow

    types = pyarrow.types
    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    if types.is_struct(kind):
        fields = [kind.field(number).name for number in range(kind.num_fields)]
        return sorted(fields) == ["bytes", "path"] or fields == ["path"]
    return bool(_IMAGE_COLUMN.fullmatch(name)) and (types.is_binary(kind) or types.is_large_binary(kind))


def _leaf(name: str, kind: "pyarrow.DataType") -> str:
    """The smallest part of an image column that tells where images are."""
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return f"{name}.path"
    if pyarrow.types.is_list(kind) and pyarrow.types.is_struct(kind.value_type):
        return f"{name}.list.{kind.value_field.name}.path"
    return name


def _image_counts(column: "pyarrow.ChunkedArray") -> list[int]:
    """How many images each cell of a column has."""
    import pyarrow.compute
    import pyarrow.types

    if pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type):
        return [count or 0 for count in pyarrow.compute.list_value_length(column).to_pylist()]
    return [int(there) for there in pyarrow.compute.is_valid(column).to_pylist()]


def files_hash(files: tuple[Path, ...]) -> str:
    """SHA-256 of a file, or of several files' own in their order, in hex."""
    found = []
    for path in files:
        with path.open("rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()
