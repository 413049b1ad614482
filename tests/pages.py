"""Parts of the documentation that are written from what was measured."""

from collections.abc import Iterable
from pathlib import Path

from fourfold.assistant.files import write_text

TRUST = Path(__file__).parents[1] / "docs" / "trust.md"


def replace_part(page: Path, mark: str, lines: Iterable[str]) -> None:
    """Put lines between `<!-- MARK: begin -->` and `<!-- MARK: end -->` of a page.

    Raises:
        ValueError: the page has not these marks.
    """
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    write_text(page, "\n".join([f"{before}{begin}", "", *lines, "", f"{end}{after}"]))
