"""`fourfold decide`: closed questions about pictures, answered with probabilities into a table."""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fourfold.assistant.image_files import image_files
from fourfold.assistant.images import load_image_file
from fourfold.cli.options import DeviceName, DeviceOption, ModelOption, QuantizationName, QuantizationOption, examples
from fourfold.cli.refined import (
    AdapterOption,
    NoEyesOption,
    StoreOption,
    StrengthOption,
    check_refined,
    chosen_adapter,
    eyes_of,
)
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from fourfold.cli.decide_table import DecisionTable, Row
    from fourfold.serving.decisions.decide import Decided
    from fourfold.serving.decisions.questions import DecisionQuestion
    from fourfold.serving.engine.engine import Engine
    from fourfold.serving.looking import Looking

EXAMPLES = examples(
    'fourfold decide photos/ --question "is there a dog?" --question "is it night?"',
    'fourfold decide photos/ --choice "indoor,outdoor" --out table.csv',
    'fourfold decide a.jpg b.jpg --score "how many people are there? 0,1,2,3" --csv',
)
_AHEAD = 2
"""Pictures that are decoded while another is asked about."""


def decide(
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="PHOTO...", help="Image files, or folders of them.")
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help='Answered by yes or no: "is there a dog?". May be repeated.'),
    ] = None,
    choice: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help='Which it is: "indoor,outdoor", or "what colour is the car? red,blue". May be repeated.',
        ),
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help='How much, from the lowest: "how many people are there? 0,1,2,3". May be repeated.'
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="TABLE.csv", help="Write CSV here; a stopped run goes on.")
    ] = None,
    model: ModelOption = None,
    quantization: QuantizationOption = None,
    device: DeviceOption = DeviceName.AUTO,
    adapter: AdapterOption = None,
    strength: StrengthOption = None,
    store: StoreOption = None,
    no_eyes: NoEyesOption = False,
) -> None:
    """Ask closed questions about many pictures; every picture is read once for all of them."""
    # Everything that the asker can have got wrong is looked at before the seconds that torch takes to import.
    if not pictures:
        raise UserError("name pictures, or a folder of them: fourfold decide photos/ --question ...")
    files = image_files(pictures)
    if not (question or choice or score):
        raise UserError('ask something: --question "is there a dog?", --choice "indoor,outdoor" or --score')
    asked = [read_options(text, "choice") for text in choice or ()] + [read_options(s, "score") for s in score or ()]
    check_refined(adapter, strength, False, store, eyes=not no_eyes)

    from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
    from fourfold.assistant.checkpoints.resolve import resolve_model
    from fourfold.cli.decide_table import DecisionTable, columns_of
    from fourfold.serving.decisions.decide import calibration_of
    from fourfold.serving.looking import EYES

    questions = questions_of(question or (), asked)
    directory = resolve_model(model)
    refined = chosen_adapter(adapter, strength, store, directory)
    with _load(directory, quantization, device) as engine:
        if refined is not None:
            engine.default_adapter = engine.load_adapter(*refined).name
        calibration = calibration_of(engine, None)
        missing = sorted({one.kind for one in questions} - set(calibration.temperatures if calibration else ()))
        who = f"{engine.model_name}@{model_fingerprint(directory)[:8]}" + (f"+{refined[0]}" if refined else "")
        same = {"model": who, "probabilities": "raw" if missing else "calibrated"}
        looking = None if no_eyes else eyes_of(engine, directory, store)
        if looking is not None:
            same["model"] += EYES
        table = DecisionTable(out, columns_of(questions), same)
        if missing:
            why = "an adapter answers" if refined else "fit temperatures by `fourfold train calibrate`"
            typer.echo(f"probabilities are raw ({', '.join(missing)}): {why}", err=True)
        failed = _fill(table, engine, looking, files, questions, same)
    text = table.finish([str(file) for file in files])
    if as_csv:
        typer.echo(text, nl=False)
    elif out is None:
        _show(table, files, questions)
    if failed:
        typer.echo(f"{len(failed)} of {len(files)} pictures could not be asked about; {failed[0]}", err=True)
    if len(failed) == len(files):
        raise UserError("there was no picture that could be asked about")


def read_options(text: str, kind: str) -> tuple[str, str, list[str]]:
    """Kind, question and options of "QUESTION? a,b" or "a,b", which is asked "is this a or b?".

    Raises:
        UserError: there are fewer than two options, or the same one twice.
    """
    words, mark, listed = text.rpartition("?")
    options = [option.strip() for option in listed.split(",") if option.strip()]
    if len(options) < 2:
        raise UserError(f'--{kind} {text!r}: give at least two answers, such as "indoor,outdoor"')
    if len(set(options)) < len(options):
        raise UserError(f"--{kind} {text!r}: the same answer twice; leave one out")
    asked = f"{words.strip()}?" if mark else f"is this {', '.join(options[:-1])} or {options[-1]}?"
    return kind, asked, options


def questions_of(predicates: Sequence[str], others: Sequence[tuple[str, str, list[str]]]) -> "list[DecisionQuestion]":
    """All questions, each called as its column is: by its words, or its options where these are all there is.

    Raises:
        UserError: one has no words, or is asked twice.
    """
    from fourfold.serving.decisions.questions import choice, predicate, score

    questions = [predicate(words.strip(), words.strip()) for words in predicates]
    for kind, words, options in others:
        name = ",".join(options) if words.startswith("is this ") else words
        questions.append((choice if kind == "choice" else score)(words, options, name))
    names = [question.name for question in questions]
    if not all(names):
        raise UserError('a --question is empty; ask something, such as "is there a dog?"')
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{repeated[0]!r} is asked twice; leave one out")
    return questions


def _fill(
    table: "DecisionTable",
    engine: "Engine",
    looking: "Looking | None",
    files: Sequence[Path],
    questions: "Sequence[DecisionQuestion]",
    same: "Row",
) -> list[str]:
    """Ask what the table lacks; what went wrong, in a line for each picture."""
    from fourfold.assistant.progress import Progress, progress_bar
    from fourfold.cli.decide_table import cells_of

    waiting = [file for file in files if str(file) not in table.rows]
    failed: list[str] = []
    drawn = progress_bar(None if sys.stderr.isatty() else lambda event: None)
    with drawn as tell, ThreadPoolExecutor(1, thread_name_prefix="decode") as decoder:
        tell(Progress("pictures", len(files) - len(waiting), len(files)))
        for number, (file, image) in enumerate(_decoded(decoder, waiting), len(files) - len(waiting) + 1):
            row = {"file": str(file), **same, "error": ""}
            if isinstance(image, UserError):
                failed.append(str(image))
                row["error"] = str(image)
            else:
                row |= cells_of(_ask(engine, looking, image, questions))
            table.add(row)
            tell(Progress("pictures", number, len(files)))
    return failed


def _ask(
    engine: "Engine", looking: "Looking | None", image: "Image.Image", questions: "Sequence[DecisionQuestion]"
) -> "list[Decided]":
    from fourfold.serving.decisions.decide import Decider, calibration_of
    from fourfold.serving.engine.requests import Request

    context = Request([{"role": "user", "content": [{"type": "image", "image": image}]}])
    answers = list(Decider(engine, context, calibration_of(engine, None), looking).decide(questions))
    # No question depends on a picture for whether it can be asked.
    if refused := next((answer for answer in answers if answer.refusal is not None), None):
        raise UserError(f"{refused.question.name!r} cannot be asked: {refused.refusal}")
    return answers


def _decoded(decoder: ThreadPoolExecutor, files: Sequence[Path]) -> "Iterator[tuple[Path, Image.Image | UserError]]":
    """Pictures in their order, a few of them decoded ahead; in place of one that cannot be read, why."""

    def read(file: Path) -> "Image.Image | UserError":
        try:
            return load_image_file(file)
        except UserError as error:
            return error

    rest = iter(files)
    ahead = [(file, decoder.submit(read, file)) for file in islice(rest, _AHEAD)]
    while ahead:
        file, future = ahead.pop(0)
        image = future.result()
        ahead += [(file, decoder.submit(read, file)) for file in islice(rest, 1)]
        yield file, image


def _show(table: "DecisionTable", files: Sequence[Path], questions: "Sequence[DecisionQuestion]") -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table("picture", *(str(question.name) for question in questions), box=None)
    for file in files:
        row = table.rows[str(file)]
        cells = []
        for question in questions:
            answer = row.get(str(question.name), "")
            if question.kind == "choice" and answer:
                answer += f" ({float(row[f'{question.name}: {answer}']):.2f})"
            elif answer:
                answer = f"{float(answer):.2f}"
            cells.append(answer)
        if row["error"]:
            cells[0] = "–"
        shown.add_row(str(file), *cells)
    Console().print(shown, highlight=False, markup=False)


def _load(directory: Path, quantization: QuantizationName | None, device: DeviceName) -> "Engine":
    from fourfold.serving.engine.engine import Engine

    return Engine.load(directory, quantization=quantization.value if quantization else None, device=device.value)
