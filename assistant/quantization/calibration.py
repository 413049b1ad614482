"""What the language model reads while it is measured for fewer bits: chats about images, with its own answers."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fourfold.assistant.grounding import Box, format_box
from fourfold.assistant.images import load_image_file
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.prompts.tasks import INSTRUCTIONS, Task, instruction

_QUESTIONS = (
    "what is in the picture?",
    "what colour is the largest thing?",
    "is there a person in the picture?",
    "how many people are there?",
    "what is on the left?",
    "where was this taken?",
    "what is the weather like?",
    "is it day or night?",
)
_THINGS = (
    "the person",
    "the largest thing",
    "the animal",
    "the car",
    "the table",
    "the sky",
    "the building",
)
_SMALL_TALK = (
    "Hello! Who are you?",
    "What can you do?",
    "Write one sentence about the sea.",
    "What is the capital of France?",
    "Name three colours.",
)
_WITHOUT_IMAGE = 8  # every eighth chat
_ANSWER = 48  # tokens
_BATCH = 8


def questions(number: int, seed: int) -> Iterator[tuple[bool, str]]:
    """`number` questions of all tasks in turn, and whether each is about an image."""
    draw = random.Random(seed)
    tasks = tuple(Task)
    for place in range(number):
        if place % _WITHOUT_IMAGE == _WITHOUT_IMAGE - 1:
            yield False, draw.choice(_SMALL_TALK)
            continue
        task = tasks[(place - place // _WITHOUT_IMAGE) % len(tasks)]
        x1, y1 = draw.randint(0, 60), draw.randint(0, 60)
        box = Box(x1 / 100, y1 / 100, (x1 + draw.randint(10, 40)) / 100, (y1 + draw.randint(10, 40)) / 100)
        text = {
            Task.VQA: draw.choice(_QUESTIONS),
            Task.REFER: draw.choice(_THINGS),
            Task.DETECTION: draw.choice(_THINGS).removeprefix("the "),
            Task.IDENTIFY: format_box(box),
        }.get(task, "")
        yield True, instruction(task, text, index=draw.randrange(len(INSTRUCTIONS[task])))


@torch.inference_mode()
def calibration_chats(
    model: MiniGPTv2ForConditionalGeneration,
    processor: MiniGPTv2Processor,
    images: Sequence[Path],
    number: int,
    *,
    seed: int = 0,
    on_chat: Callable[[int], None] = lambda done: None,
) -> list[torch.Tensor]:
    """What stands before the language model in `number` chats: questions about the images and its own greedy answers.

    Args:
        model: unquantised, on the device it is to compute on.
        processor: its.
        images: image files, taken in an order that follows from the seed, again from the start where they are too few.
        number: of chats.
        seed: everything follows from it.
        on_chat: told how many there are.

    Returns:
        For each chat the embeddings (1, length, text width), on the CPU.

    Raises:
        UserError: an image cannot be read.
    """
    order = random.Random(seed).sample(list(images), len(images))
    asked = list(questions(number, seed))
    shown = [order[place % len(order)] if with_image else None for place, (with_image, _) in enumerate(asked)]
    chats: list[torch.Tensor] = []
    for first in range(0, number, _BATCH):
        batch = slice(first, first + _BATCH)
        chats += _answered(model, processor, shown[batch], [text for _, text in asked[batch]])
        on_chat(len(chats))
    return chats


def _answered(
    model: MiniGPTv2ForConditionalGeneration,
    processor: MiniGPTv2Processor,
    paths: Sequence[Path | None],
    texts: Sequence[str],
) -> Iterator[torch.Tensor]:
    """For each question the embeddings (1, length, text width) of its chat."""
    conversations = []
    for path, text in zip(paths, texts, strict=True):
        content: list[dict[str, Any]] = [] if path is None else [{"type": "image", "image": load_image_file(path)}]
        conversations.append([{"role": "user", "content": [*content, {"type": "text", "text": text}]}])
    inputs = processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    ).to(model.device)
    written = model.generate(**inputs, max_new_tokens=_ANSWER, do_sample=False)
    pixels, length = inputs.get("pixel_values"), inputs["input_ids"].shape[1]
    seen = () if pixels is None else model.model.project_features(model.model.encode_images(pixels.to(model.dtype)))
    features = iter(seen)
    ends = _end_tokens(model)
    for row, mask, path in zip(written, inputs["attention_mask"], paths, strict=True):
        answer = row[length:].tolist()
        stop = next((place for place, token in enumerate(answer) if token in ends), len(answer))
        ids = torch.cat([row[:length][mask.bool()], row[length : length + stop + 1]])[None]
        yield model.model.embed(ids, None if path is None else next(features)[None]).cpu()


def _end_tokens(model: MiniGPTv2ForConditionalGeneration) -> set[int]:
    ids = model.generation_config.eos_token_id
    return {ids} if isinstance(ids, int) else set(ids or ())
