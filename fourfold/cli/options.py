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
    MPS = "mps"


MODEL_PANEL = "The model"
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A checkpoint directory, or ORG/NAME of the Hub; default: fourfold-mini.",
        rich_help_panel=MODEL_PANEL,
    ),
]
QuantizationOption = Annotated[
    QuantizationName | None,
    typer.Option("--quantization", help="Low-bit language model; meant for a GPU.", rich_help_panel=MODEL_PANEL),
]
DeviceOption = Annotated[
    DeviceName,
    typer.Option(
        "--device",
        help="Where the local engine computes; auto: on a GPU where there is one. mps (Apple): untested.",
        rich_help_panel=MODEL_PANEL,
    ),
]


def examples(*lines: str) -> str:
    """What stands below a command's help."""
    return "\n".join(["Examples:", *lines]).replace("[", r"\[")
