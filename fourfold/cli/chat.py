"""`fourfold chat`: ask about images, once or in a conversation."""

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fourfold.assistant.grounding import draw as draw_boxes
from fourfold.assistant.grounding import parse
from fourfold.assistant.images import load_image_file
from fourfold.cli.chat_input import Asked, read_words, user_message, with_task
from fourfold.cli.chat_output import Answering, Looks, show_looks, write_image
from fourfold.cli.options import DeviceName, DeviceOption, ModelOption, QuantizationName, QuantizationOption
from fourfold.cli.refined import (
    AdapterOption,
    MemoryOption,
    NoEyesOption,
    StoreOption,
    StrengthOption,
    check_refined,
    chosen_adapter,
    eyes_of,
    memory_of,
    recalled,
)
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task, instruction, parse_task
from fourfold.serving.engine.requests import Completion, Request, Sampling

if TYPE_CHECKING:
    from PIL import Image

    from fourfold.serving.engine.engine import Engine

_DRAW_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def chat(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar='IMAGE... ["QUESTION"]', help="Image files, then a question in quotes."),
    ] = None,
    task: Annotated[str | None, typer.Option(help=f"One of {', '.join(Task)}.")] = None,
    model: ModelOption = None,
    quantization: QuantizationOption = None,
    device: DeviceOption = DeviceName.AUTO,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest word; up to 2.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Makes an answer with temperature repeat.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    draw: Annotated[Path | None, typer.Option(metavar="OUT.png", help="Save the image with its boxes.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Look at each claim of the answer again.")] = False,
    closer: Annotated[bool, typer.Option("--look-closer", help="Ask again about the part that matters.")] = False,
    interactive: Annotated[bool, typer.Option("--interactive", help="Go on chatting after the answer.")] = False,
    adapter: AdapterOption = None,
    strength: StrengthOption = None,
    memory: MemoryOption = False,
    store: StoreOption = None,
    no_eyes: NoEyesOption = False,
) -> None:
    """Ask about images. Without a question, on a terminal, it is a conversation."""
    # Everything that the asker can have got wrong is looked at before the seconds that torch takes to import.
    asked = read_words(words or [])
    chosen = parse_task(task) if task is not None else None
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    question = _question(asked, chosen)
    if (question is None or interactive) and (as_json or not sys.stdin.isatty()):
        raise UserError('ask a question: fourfold chat photo.jpg "what is this?" (a conversation needs a terminal)')
    if draw is not None:
        _check_drawable(draw, asked)
    looks = Looks(check, closer)
    check_refined(adapter, strength, memory, store, eyes=not no_eyes)
    if looks and not asked.images:
        raise UserError("--check and --look-closer need an image to look at")
    images = [load_image_file(path) for path in asked.images]

    from fourfold.assistant.checkpoints.resolve import resolve_model

    directory = resolve_model(model)
    refined = chosen_adapter(adapter, strength, store, directory)
    corrections = memory_of(store) if memory else None
    with _load(directory, quantization, device) as engine:
        if refined is not None:
            engine.default_adapter = engine.load_adapter(*refined).name
        eyes = None if no_eyes else eyes_of(engine, directory, store)
        answering = Answering(engine, eyes)
        if question is None or interactive:
            from fourfold.cli.chat_session import Session

            Session(answering, sampling, images, chosen, draw, looks, corrections).run(question)
            return
        known = recalled(corrections, images, question)
        request = Request([user_message(images, question)], sampling, forced_answer=known.answer if known else None)
        answer = answering.answer(request, show=not as_json)
        completion = answer.completion
        looked = looks.take(answering, images[-1], question, completion) if looks else None
        text = looked.answer if looked else completion.text
        if draw is not None:
            write_image(draw_boxes(images[-1], parse(text).phrases), draw)
        if as_json:
            told = answer_object(text, completion, images, engine.model_name)
            if eyes is not None:
                told["claims"] = [claim.to_json() for claim in answer.claims]
            if looked is not None:
                told["claims"] = looked.claims_json()
                told["first_text"] = completion.text
                told["timings"]["look_again"] = round(looked.seconds, 4)
            if corrections is not None:
                told["remembered"] = known and {"id": known.id}
            print(json.dumps(told, ensure_ascii=False))
        elif looked is not None:
            show_looks(looked)


def _question(asked: Asked, task: Task | None) -> str | None:
    """What goes to the model; None where a conversation is to begin."""
    if asked.question is None:
        # These two tasks have an instruction of their own and need no words.
        if task in (Task.CAPTION, Task.GROUNDING) and asked.images:
            return instruction(task)
        return None
    return with_task(task, asked.question)


def answer_object(text: str, completion: Completion, images: Sequence["Image.Image"], model: str) -> dict[str, Any]:
    """What `--json` prints; all but `timings` repeats from run to run. Boxes are of the last image."""
    size = images[-1].size if images else None
    boxes = [
        {
            "phrase": grounded.phrase,
            "box": list(box.as_tuple()),
            "pixels": [round(side) for side in box.to_pixels(*size)] if size else None,
        }
        for grounded in parse(text).phrases
        for box in grounded.boxes
    ]
    return {
        "text": text,
        "boxes": boxes,
        "finish_reason": completion.finish_reason,
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "total_tokens": completion.prompt_tokens + completion.completion_tokens,
        },
        "timings": {stage: round(seconds, 4) for stage, seconds in completion.timings.items()},
        "model": model,
    }


def _check_drawable(path: Path, asked: Asked) -> None:
    if not asked.images:
        raise UserError("--draw needs an image to draw on")
    if path.suffix.lower() not in _DRAW_SUFFIXES:
        raise UserError(f"--draw {path}: the name has to end in {', '.join(sorted(_DRAW_SUFFIXES))}")
    if not path.parent.is_dir():
        raise UserError(f"--draw {path}: there is no directory {path.parent}")
    if any(path.resolve() == Path(image).resolve() for image in asked.images):
        raise UserError(f"--draw {path} would overwrite the image that is asked about; give another name")


def _load(directory: Path, quantization: QuantizationName | None, device: DeviceName) -> "Engine":
    with _status("Loading the model"):
        from transformers.utils import logging

        logging.disable_progress_bar()
        from fourfold.serving.engine.engine import Engine

        return Engine.load(
            directory,
            quantization=quantization.value if quantization else None,
            device=device.value,
            max_num_seqs=1,
        )


def _status(words: str) -> AbstractContextManager[Any]:
    """A spinner on stderr where somebody looks on."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(words)
