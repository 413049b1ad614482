"""Which pictures an agent may have looked at: files below some folders, and data URIs. Nothing is fetched."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fourfold.assistant.images import Attachment, split_page
from fourfold.prompts.errors import UserError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(frozen=True)
class Pictures:
    """The pictures below some folders.

    Attributes:
        roots: absolute and without links; relative names are looked for below the first.
    """

    roots: tuple[Path, ...]

    @classmethod
    def below(cls, folders: Sequence[str | Path]) -> "Pictures":
        """The pictures below folders, of which there is at least one.

        Raises:
            UserError: one of them is no folder.
        """
        for folder in folders:
            if not Path(folder).expanduser().is_dir():
                raise UserError(f"--root {folder}: there is no such folder")
        return cls(tuple(Path(folder).expanduser().resolve() for folder in folders))

    def open(self, given: str) -> Attachment:
        """A picture, encoded as it is.

        Args:
            given: a path, a `file:` URI, a page of a PDF as `report.pdf#3`, or a `data:image/...;base64,...` URI.

        Raises:
            UserError: it is none of these, outside of the folders, missing, or too large.
        """
        given = given.strip()
        if given[:5].lower() == "data:":
            return Attachment.from_data_uri(given)
        if given[:5].lower() == "file:":
            address = urlsplit(given)
            if address.netloc not in ("", "localhost"):
                raise UserError(f"{given[:200]} is on another machine; give a path of this one")
            given = unquote(address.path) + (f"#{address.fragment}" if address.fragment else "")
        elif _ADDRESS.match(given):
            raise UserError(f"{given[:200]} is an address, and nothing is fetched; save the picture and give its path")
        if not given or "\0" in given:
            raise UserError("the picture has no name; give the path of an image file")
        file, page = split_page(Path(given).expanduser())
        path = (self.roots[0] / file).resolve()
        # Before anything tells whether it is there: what lies elsewhere is nobody's business.
        if not any(path.is_relative_to(root) for root in self.roots):
            raise UserError(
                f"{given[:200]} is outside of {', '.join(map(str, self.roots))}, and only what is below may be looked "
                "at; start fourfold mcp with --root FOLDER for more"
            )
        return Attachment.from_path(f"{path}#{page}" if page is not None else path, given[:200])
