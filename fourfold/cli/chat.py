"""`fourfold chat`: ask about images, once or in a conversation."""

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fourfold.assistant.grounding import parse
from fourfold.cli.chat_input import Asked, read_words, unread_pipe, user_message, with_task
from fourfold.cli.chat_output import Answering, Looks, asked_about, asked_for, named, save_boxes, say, show_looks
from fourfold.cli.options import DeviceName, DeviceOption, ModelOption, QuantizationName, QuantizationOption, examples
from fourfold.cli.pictures import check_out
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

EXAMPLES = examples(
    'fourfold chat photo.jpg "what is this?"',
    'fourfold chat photo.jpg "where is the dog?" --draw boxes.png',
    "fourfold chat photo.jpg --task caption --check",
    'fourfold chat report.pdf#3 "what does the picture show?" --json',
    'cat photo.jpg | fourfold chat - "is there a dog?"',
    'echo "is there a dog?" | fourfold chat photo.jpg',
    "fourfold chat photo.jpg     (a conversation; /help lists what you can do)",
)
_SAMPLING = "How it answers"
_WORDLESS = (Task.CAPTION, Task.GROUNDING)
"""These have an instruction of their own and need no words."""


def chat(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar='IMAGE... ["QUESTION"]', help="Image files, and a question in quotes; - is what is piped in."
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="TASK", help=f"One of {', '.join(Task)}.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    draw: Annotated[Path | None, typer.Option(metavar="OUT.png", help="Save the image with its boxes.")] = None,
    interactive: Annotated[bool, typer.Option("--interactive", help="Go on chatting after the answer.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Look at each claim of the answer again.")] = False,
    closer: Annotated[bool, typer.Option("--look-closer", help="Ask again about the part that matters.")] = False,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", help="Longest answer in tokens.", rich_help_panel=_SAMPLING)
    ] = 256,
    temperature: Annotated[
        float, typer.Option(metavar="0..2", help="0: always the likeliest word.", rich_help_panel=_SAMPLING)
    ] = 0.0,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Makes an answer with temperature repeat.", rich_help_panel=_SAMPLING),
    ] = None,
    model: ModelOption = None,
    quantization: QuantizationOption = None,
    device: DeviceOption = DeviceName.AUTO,
    adapter: AdapterOption = None,
    strength: StrengthOption = None,
    memory: MemoryOption = False,
    store: StoreOption = None,
    no_eyes: NoEyesOption = False,
) -> None:
    """Ask about images. Without a question, on a terminal, it is a conversation."""
    # Everything that the asker can have got wrong is looked at before the model is loaded.
    chosen = parse_task(task) if task is not None else None
    piped = None if sys.stdin is None or sys.stdin.isatty() else sys.stdin
    asked = read_words(words or [], piped, needs_question=chosen not in _WORDLESS and not interactive)
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    question = _question(asked, chosen)
    if (question is None or interactive) and (as_json or piped is not None or sys.stdin is None):
        if question is not None and not as_json:
            raise UserError("a conversation needs a terminal; leave --interactive out to ask the one question")
        raise UserError('ask a question: fourfold chat photo.jpg "what is this?" (a conversation needs a terminal)')
    if draw is not None:
        if not asked.images:
            raise UserError("--draw needs an image to draw on")
        check_out(draw, *(Path(image.name).expanduser() for image in asked.images))
    looks = Looks(check, closer)
    check_refined(adapter, strength, memory, store, eyes=not no_eyes)
    if looks and not asked.images:
        raise UserError("--check and --look-closer need an image to look at")
    if not asked.images and unread_pipe(piped):
        say('what is piped in is not looked at; a picture is named by -: cat photo.jpg | fourfold chat - "..."')
    images = [image.decode() for image in asked.images]

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

            Session(answering, sampling, images, chosen, draw, looks, corrections, store).run(question)
            return
        known = recalled(corrections, images, question)
        request = Request([user_message(images, question)], sampling, forced_answer=known.answer if known else None)
        name = asked_for(question)
        answer = answering.answer(request, show=not as_json, name=name)
        completion = answer.completion
        image = asked_about(request, images, eyes=eyes is not None)
        looked = looks.take(answering, image, question, completion) if looks and image else None
        text = looked.answer if looked else completion.text
        if draw is not None and image is not None:
            save_boxes(image, named(text, name), draw)
        if as_json:
            told = answer_object(text, completion, image, engine.model_name)
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
            show_looks(looked, checked=check)


def _question(asked: Asked, task: Task | None) -> str | None:
    """What goes to the model; None where a conversation is to begin."""
    if asked.question is None:
        if task in _WORDLESS and asked.images:
            return instruction(task)
        return None
    return with_task(task, asked.question)


def answer_object(text: str, completion: Completion, image: "Image.Image | None", model: str) -> dict[str, Any]:
    """What `--json` prints; all but `timings` repeats from run to run. Boxes are of `image`."""
    size = None if image is None else image.size
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


def _load(directory: Path, quantization: QuantizationName | None, device: DeviceName) -> "Engine":
    with _status("Loading the model"):
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
