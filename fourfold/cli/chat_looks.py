"""`--check` and `--look-closer`: an answer looked at again, shown step by step."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fourfold.serving.engine.requests import Completion, Request, Sampling

if TYPE_CHECKING:
    from PIL import Image

    from fourfold.assistant.chat.look_again import LookedAgain, Step
    from fourfold.serving.engine.engine import Engine

_VERDICTS = {"supported": "green", "unsupported": "red", "unsure": "yellow"}


@dataclass(frozen=True)
class Looks:
    """Which second looks are wanted.

    Attributes:
        check: look at each claim of the answer again.
        closer: ask again about the region that matters.
    """

    check: bool
    closer: bool

    def __bool__(self) -> bool:
        return self.check or self.closer

    def take(self, engine: "Engine", image: "Image.Image", question: str, completion: Completion) -> "LookedAgain":
        """Look again, telling on stderr what happens where somebody looks on."""
        from fourfold.assistant.chat.look_again import Budget, look_again, with_images

        def ask(messages: list[dict[str, Any]], images: list["Image.Image"]) -> str:
            request = Request(with_images(messages, images), Sampling(max_tokens=64))
            return engine.generate([request])[0].text

        console = Console(stderr=True, highlight=False)

        def show(step: "Step") -> None:
            console.print(f"  {step.text}", style="dim", markup=False)

        return look_again(
            ask,
            image,
            question,
            completion.text,
            check_claims=self.check,
            closer=self.closer,
            # Questions bound the cost; a bound in seconds would make an answer depend on how busy the machine is.
            budget=Budget(seconds=float("inf")),
            on_step=show if sys.stderr.isatty() else None,
        )


def show_looks(looked: "LookedAgain") -> None:
    """Print on stdout what came of looking again."""
    console = Console(highlight=False, soft_wrap=True)
    if looked.answer != looked.first:
        console.print(f"seen closer: {looked.answer}", markup=False)
    for checked in looked.claims_json():
        console.print(f"{checked['phrase']}: ", end="", markup=False)
        console.print(checked["verdict"], style=_VERDICTS[checked["verdict"]])
    if looked.stopped:
        console.print(f"stopped early: {looked.stopped}", style="dim", markup=False)
