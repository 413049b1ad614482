"""Pictures that commands read and write."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

Picture = Annotated[Path, typer.Argument(metavar="PICTURE", show_default=False)]
Out = Annotated[Path, typer.Option("--out", metavar="OUT.png", help="Where to; its folder must be there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_SAVED = (".png", ".jpg", ".jpeg", ".webp")


def open_picture(path: Path, saved: Path | None = None) -> "Image.Image":
    """The picture of a file, once it is clear that what will be saved can be.

    Raises:
        UserError: it is none, or as `check_out`.
    """
    from fourfold.assistant.images import load_image_file

    if saved is not None:
        check_out(saved, path)
    return load_image_file(path)


def check_out(saved: Path, *pictures: Path) -> None:
    """See, before anything slow, that a picture can be saved.

    Args:
        saved: where to.
        pictures: those that are looked at.

    Raises:
        UserError: there is no such folder, the suffix is none of a picture, or one of `pictures` would be overwritten.
    """
    if saved.suffix.lower() not in _SAVED:
        raise UserError(f"{saved}: the name has to end in {', '.join(_SAVED)}")
    if saved.is_dir():
        raise UserError(f"{saved} is a directory; give the name of a file")
    if not saved.parent.is_dir():
        raise UserError(f"{saved}: there is no directory {saved.parent}")
    if saved.exists() and any(path.exists() and saved.samefile(path) for path in pictures):
        raise UserError(f"{saved} would overwrite the picture that is looked at; give another name")
