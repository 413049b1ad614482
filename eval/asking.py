"""What a run asks: the wording, the image under a control, the length; and the identity of all this."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from PIL import Image

from fourfold.eval.probes import Probe, Shuffle, with_claim, wrong_claims
from fourfold.eval.prompting import PromptConfig
from fourfold.eval.tasks import Benchmark, Item
from fourfold.prompts.benchmarks import benchmark_prompt
from fourfold.prompts.errors import UserError


class Control(StrEnum):
    """What the model gets to see.

    NONE: the question's own image. BLIND: no image, the same prompt. WRONG_IMAGE: another question's image. TEXT_ONLY:
    no image and the bare question, without the prompt's words about one.
    """

    NONE = "none"
    BLIND = "blind"
    WRONG_IMAGE = "wrong-image"
    TEXT_ONLY = "text-only"


@dataclass(frozen=True)
class Ask:
    """One thing to ask a model.

    Attributes:
        key: of the sample in the log.
        prompt: the whole question.
        image: file of the image, None for none.
        candidates: answers to be ranked by their likelihood; () for a written answer.
        history: earlier turns of the conversation, (question, answer) pairs; the image belongs to the first.
        edit: what is done to the image before it is shown.
    """

    key: str
    prompt: str
    image: Path | None
    candidates: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()
    edit: Callable[[Image.Image], Image.Image] | None = None

    def messages(self, image_part: dict | None) -> list[dict]:
        """OpenAI's chat messages with the image in the first turn."""
        turns = [*self.history, (self.prompt, None)]
        messages: list[dict] = []
        for number, (question, answer) in enumerate(turns):
            text = {"type": "text", "text": question}
            content = [image_part, text] if number == 0 and image_part is not None else question
            messages.append({"role": "user", "content": content})
            if answer is not None:
                messages.append({"role": "assistant", "content": answer})
        return messages


def asks_for(
    bench: Benchmark,
    items: Sequence[Item],
    find: Callable[[str], Path | None],
    *,
    control: Control,
    manner: PromptConfig,
    seed: int,
    probe: Probe = Probe.NONE,
) -> list[Ask]:
    """What to ask for each item; `find` gives the file of an image.

    The wrong image is that of another item, drawn by the seed among the images of this run. A probe disturbs images or
    prompts.

    Raises:
        UserError: only one image is there, so that none is a wrong one; or no wrong answer in words can be claimed.
    """
    images = list(dict.fromkeys(item.image for item in items))
    if control is Control.WRONG_IMAGE and len(images) < 2:
        raise UserError("the control wrong-image needs questions about at least two images")
    rng = random.Random(seed)
    # Each image is exchanged for the next one of a shuffled ring, so none keeps its own.
    rng.shuffle(images)
    following = dict(zip(images, images[1:] + images[:1], strict=True))
    claims = [""] * len(items)
    if probe is Probe.DISTRACTOR:
        claims = wrong_claims(items, [right_answer(item) for item in items], seed)
        if not any(claims):
            raise UserError(
                f"the probe distractor claims a wrong answer in words; these questions of {bench.name} have none"
            )
    edit = Shuffle(seed=seed) if probe is Probe.PATCH_SHUFFLE else None
    asks = []
    for item, claim in zip(items, claims, strict=True):
        image: Path | None = None
        if control is Control.NONE:
            image = find(item.image)
        elif control is Control.WRONG_IMAGE:
            image = find(following[item.image])
        if control is Control.TEXT_ONLY:
            prompt = next(iter(bench.prompt_fields(item).values()))
        else:
            prompt = prompt_of(bench, item, manner)
        asks.append(Ask(item.id, with_claim(prompt, claim), image, item.candidates, edit=edit if image else None))
    return asks


def prompt_of(bench: Benchmark, item: Item, manner: PromptConfig) -> str:
    """The prompt of an item in the wording of the manner."""
    return benchmark_prompt(bench.name, manner.wording, box_format=manner.box_format, **bench.prompt_fields(item))


def right_answer(item: Item) -> str:
    """The right answer in words, the most frequent where annotators differ; "" for boxes and where none is known."""
    reference = item.reference
    if isinstance(reference, bool):
        return "yes" if reference else "no"
    if isinstance(reference, int):
        return item.candidates[reference]
    if isinstance(reference, tuple):
        return Counter(reference).most_common(1)[0][0] if reference else ""
    if isinstance(reference, dict):
        return str(reference.get("answer", ""))
    return ""
