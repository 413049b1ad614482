"""A table of answers, a row a picture, in a CSV file that survives being stopped."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from fourfold.assistant.files import write_text
from fourfold.prompts.errors import UserError
from fourfold.serving.decisions.decide import Decided
from fourfold.serving.decisions.questions import DecisionQuestion

Row = dict[str, str]
LAST = ("model", "probabilities", "error")
"""Columns behind the answers: who answered, whether its probabilities are calibrated or raw, and why a row is empty."""


class DecisionTable:
    """Keeps rows as they come, so that what an earlier run asked the same model need not be asked again.

    Until `finish` they stand in `PATH.part`, where a row that was cut off by a kill is dropped.

    Args:
        path: of the CSV file; None keeps nothing.
        columns: of `columns_of`.
        same: what a kept row must say in `LAST`, to be of the same model.

    Raises:
        UserError: the file holds another table, or is none.
    """

    def __init__(self, path: Path | None, columns: Sequence[str], same: Row) -> None:
        self.rows: dict[str, Row] = {}
        self._columns, self._path = list(columns), path
        self._part = path and path.with_name(path.name + ".part")
        if path is None or self._part is None:
            return
        if not path.parent.is_dir():
            raise UserError(f"--out {path}: there is no directory {path.parent}")
        for file in (path, self._part):
            for row in self._read(file):
                if not row["error"] and all(row[name] == value for name, value in same.items()):
                    self.rows[row["file"]] = row

    def add(self, row: Row) -> None:
        """Keep a row; it is on the disk when this returns."""
        self.rows[row["file"]] = row
        if self._part is not None:
            begun = self._part.exists()
            with self._part.open("a", encoding="utf-8", newline="") as file:
                file.write(self._lines([row], header=not begun))
                file.flush()
                os.fsync(file.fileno())

    def finish(self, files: Sequence[str]) -> str:
        """The table of these pictures in their order, also in its file."""
        text = self._lines([self.rows[name] for name in files], header=True)
        if self._path is not None and self._part is not None:
            write_text(self._path, text)
            self._part.unlink(missing_ok=True)
        return text

    def _lines(self, rows: Sequence[Row], *, header: bool) -> str:
        out = io.StringIO()
        writer = csv.DictWriter(out, self._columns, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    def _read(self, file: Path) -> list[Row]:
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read as a table ({error}); give another --out") from None
        if file == self._part and not text.endswith("\n"):
            text = text[: text.rfind("\n") + 1]
            write_text(file, text)
        lines = list(csv.reader(io.StringIO(text)))
        if not lines:
            return []
        if lines[0] != self._columns:
            raise UserError(f"{file} holds another table, whose questions are others; give another --out")
        # A quoted line break that was cut leaves a row that is too short.
        return [dict(zip(self._columns, line, strict=True)) for line in lines[1:] if len(line) == len(self._columns)]


def columns_of(questions: Sequence[DecisionQuestion]) -> list[str]:
    """Of a table: the file, one for a predicate's probability, one for the answer of each other question and one for
    each of its options."""
    columns = ["file"]
    for question in questions:
        columns.append(str(question.name))
        if question.kind != "predicate":
            columns += [f"{question.name}: {option.text}" for option in question.options]
    return [*columns, *LAST]


def cells_of(answers: Sequence[Decided]) -> Row:
    """The answers' cells; probabilities with four decimals."""
    cells: Row = {}
    for answer in answers:
        name, question = str(answer.question.name), answer.question
        shares = [f"{share:.4f}" for share in answer.probabilities]
        if question.kind == "predicate":
            cells[name] = shares[0]
            continue
        likeliest = question.options[answer.likeliest].text
        cells[name] = likeliest if question.kind == "choice" else f"{answer.score:.4f}"
        cells |= {f"{name}: {option.text}": share for option, share in zip(question.options, shares, strict=True)}
    return cells
