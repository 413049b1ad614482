"""An image, and the one door through which bytes become pixels: for command, server, page and stores."""

from fourfold.assistant.images.attachment import Attachment, ImageInput, decode_data_uri, image_url, load_image_file
from fourfold.assistant.images.decoding import load_image_bytes
from fourfold.assistant.images.documents import Document
from fourfold.assistant.images.formats import FORMATS, PDF, SUFFIXES, is_pdf, split_page
from fourfold.assistant.images.limits import LIMITS, ImageLimits
from fourfold.assistant.images.pixels import pixel_hash

__all__ = [
    "FORMATS",
    "LIMITS",
    "PDF",
    "SUFFIXES",
    "Attachment",
    "Document",
    "ImageInput",
    "ImageLimits",
    "decode_data_uri",
    "image_url",
    "is_pdf",
    "load_image_bytes",
    "load_image_file",
    "pixel_hash",
    "split_page",
]
