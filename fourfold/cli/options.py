"""Options that several commands share."""

from enum import StrEnum
from typing import Annotated

import typer


class QuantizationName(StrEnum):
    """Low-bit formats of the language model."""

    FOUR = "4bit"
    EIGHT = "8bit"


class DeviceName(StrEnum):
    """Where the local engine computes."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


ModelOption = Annotated[str | None, typer.Option("--model", help="A checkpoint directory; default: fourfold-mini.")]
QuantizationOption = Annotated[
    QuantizationName | None, typer.Option("--quantization", help="Low-bit language model; meant for a GPU.")
]
DeviceOption = Annotated[
    DeviceName, typer.Option("--device", help="Where the local engine computes; auto: on a GPU where there is one.")
]
