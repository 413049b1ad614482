"""What one image may cost, and how a refusal reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageLimits:
    """What one image may cost.

    Attributes:
        bytes: Largest encoded size. A telephone's photo of 200 megapixels has up to 80 MB.
        pixels: Largest width x height, a little more than the 8192 x 6144 of a telephone; 156 MB decoded. A JPEG may
            have four times as many, because it can be decoded at half its size.
        side: Longest side in pixels. A strip 50 million pixels long passes the pixel cap, but resizing it takes
            gigabytes of filter weights.
    """

    bytes: int = 96 * 2**20
    pixels: int = 52_000_000
    side: int = 30_000

    def hold(self, width: int, height: int) -> bool:
        """Whether a picture of this size is within them once it is decoded."""
        return width * height <= self.pixels and max(width, height) <= self.side

    def too_many_bytes(self, name: str, size: int) -> str:
        return f"{name} has {size / 2**20:.1f} MiB, the limit is {self.bytes / 2**20:g} MiB; make it smaller"

    def too_many_pixels(self, name: str, size: tuple[int, int] | None) -> str:
        has = f"is {size[0]} x {size[1]} pixels" if size else "has far more pixels than allowed"
        return f"{name} {has}; the limits are {self.pixels:,} pixels and {self.side:,} a side; make it smaller"


LIMITS = ImageLimits()


def printable(text: str, limit: int = 200) -> str:
    """One line without control characters: names come from strangers and end up in logs and terminals."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
