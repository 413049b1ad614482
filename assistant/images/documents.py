"""A PDF whose pages are to be chosen from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from fourfold.assistant.images.attachment import Attachment
from fourfold.assistant.images.isolated import render_pages
from fourfold.assistant.images.limits import LIMITS, ImageLimits, printable


@dataclass(frozen=True)
class Document:
    """A PDF in memory.

    Attributes:
        content: the file.
        name: what people and error messages call it.
        pages: how many there are.
    """

    content: bytes = field(repr=False)
    name: str
    pages: int

    @classmethod
    def read(cls, content: bytes, name: str = "the document", limits: ImageLimits = LIMITS) -> "Document":
        """Raises UserError: it is too large, damaged or locked."""
        Attachment(content, name, limits)  # empty, too large
        count, _ = render_pages(content, printable(name), limits, (), 1)
        return cls(content, printable(name), count)

    def page(self, number: int) -> Attachment:
        """A page, from 1, as a PNG. UserError where there is no such page, or it takes too much to draw."""
        return Attachment.from_pdf(self.content, number, self.name)

    def thumbnails(self, numbers: Sequence[int], longest: int = 160) -> list[Image.Image]:
        """Small pictures of pages, RGB."""
        return render_pages(self.content, self.name, LIMITS, numbers, longest)[1]
