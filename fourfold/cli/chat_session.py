"""A conversation at the terminal."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from fourfold.assistant.grounding import parse
from fourfold.assistant.images import load_image_file
from fourfold.cli.chat_input import user_message, with_task
from fourfold.cli.chat_output import Answering, Looks, asked_about, asked_for, named, plain, save_boxes, show_looks
from fourfold.cli.concepts import described, forgotten, read_box
from fourfold.cli.interrupts import Interrupts
from fourfold.cli.refined import memory_of, recalled, store_directory
from fourfold.prompts.errors import UserError
from fourfold.prompts.tasks import Task, instruction, parse_task
from fourfold.serving.engine.requests import Request, Sampling

if TYPE_CHECKING:
    from PIL import Image

    from fourfold.assistant.refine.concepts.store import ConceptStore
    from fourfold.assistant.refine.memory import CorrectionMemory

_HELP = """\
/image FILE   show another picture with the next question ("what is in picture 1?" asks about an earlier one)
/task NAME    ask the next questions as one of: {tasks}; without a name, as they are
/correct RIGHT ANSWER    correct the last answer: it is remembered for this picture; /correct X1 Y1 X2 Y2 for a box
/correct --train ANSWER  the same, and an adapter may be trained with it (fourfold refine train)
/show NAME X1 Y1 X2 Y2   show a thing once: it is known in other pictures from now on (hundredths of the picture)
/not NAME [X1 Y1 X2 Y2]  that is not it: in the box, or nowhere in the picture
/concepts     list what was shown; fourfold concepts renames and exports
/forget NAME  forget what was shown
/reset        forget what was said; the last image stays
/help         this list
/quit         leave (or Ctrl-D); Ctrl-C stops an answer"""


class Session:
    """Questions and answers until the user leaves.

    Args:
        answering: answers.
        sampling: how.
        images: shown with the first question.
        task: wraps the questions.
        draw: where the last image is saved with the boxes of the last answer that has some.
        looks: second looks at each answer.
        memory: of corrections, whose answers are given again; None for none.
        store: directory where corrections are kept; None for the usual one.
    """

    def __init__(
        self,
        answering: Answering,
        sampling: Sampling,
        images: list["Image.Image"],
        task: Task | None,
        draw: Path | None,
        looks: Looks,
        memory: "CorrectionMemory | None" = None,
        store: Path | None = None,
    ) -> None:
        self._interrupts = Interrupts()
        self._answering = replace(answering, waiting=self._interrupts.heard)
        self._sampling = sampling
        self._new_images = images
        self._last_image = images[-1] if images else None
        self._task = task
        self._draw = draw
        self._looks = looks
        self._memory = memory
        self._store = store
        self._about: Image.Image | None = None  # what the last answer is about
        self._pictures = len(images)
        self._messages: list[dict[str, Any]] = []
        self._console = Console(highlight=False)

    def run(self, first: str | None = None) -> None:
        """Ask `first`, if it is given, as it stands; then read lines until /quit or the end of input."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (line editing and history for input())
        self._console.print(f"[dim]{self._answering.engine.model_name}; /help lists what you can do[/dim]")
        for number, image in enumerate(self._new_images, 1):
            self._console.print(f"[dim]picture {number}: {image.width} x {image.height} pixels[/dim]")
        with self._interrupts:
            if first is not None:
                self._console.print(f"> {first}", markup=False)
                self._told(self._ask, first)
            while True:
                try:
                    with self._interrupts.heard():
                        line = input("> ").strip()
                except EOFError:
                    print()
                    return
                except KeyboardInterrupt:  # at the prompt, or just behind an answer
                    self._console.print("\n[dim]/quit or Ctrl-D leaves[/dim]")
                    continue
                if line == "/quit":
                    return
                self._told(self._handle, line)

    def _told(self, do: Callable[[str], None], line: str) -> None:
        try:
            do(line)
        except UserError as error:
            self._console.print(str(error), style="red", markup=False)

    def _handle(self, line: str) -> None:
        command, _, argument = line.partition(" ")
        match command:
            case "":
                # An empty line asks for nothing, unless the task has words of its own.
                if self._task in (Task.CAPTION, Task.GROUNDING):
                    self._ask(instruction(self._task))
            case "/help":
                self._console.print(_HELP.format(tasks=", ".join(Task)), style="dim", markup=False)
            case "/image":
                self._show(argument.strip())
            case "/task":
                self._task = parse_task(argument) if argument.strip() else None
            case "/correct":
                self._correct(argument)
            case "/show" | "/not":
                self._teach(argument, positive=command == "/show")
            case "/concepts":
                known = [described(concept) for concept in self._concepts().list()] or ["nothing was shown yet"]
                self._console.print("\n".join(known), style="dim", markup=False)
            case "/forget":
                for told in forgotten(self._concepts(), argument.strip()):
                    self._console.print(told, style="dim", markup=False)
            case "/reset":
                self._messages, self._about = [], None
                self._new_images = [self._last_image] if self._last_image else []
                self._pictures = len(self._new_images)
            case _ if line.startswith("/"):
                raise UserError(f"no command is called {command}; /help lists those there are")
            case _:
                self._ask(with_task(self._task, line))

    def _concepts(self) -> "ConceptStore":
        eyes = self._answering.eyes
        if eyes is None or eyes.concepts is None:
            raise UserError("this model has no read-outs (or --no-eyes was given): nothing can be shown to it")
        return eyes.concepts.store

    def _teach(self, argument: str, *, positive: bool) -> None:
        from fourfold.assistant.images import Attachment

        concepts = self._concepts()
        if self._last_image is None:
            raise UserError("show a picture first: /image FILE")
        words = argument.split()
        has_box = len(words) > 4 and all(word.replace(".", "", 1).isdigit() for word in words[-4:])
        if positive and not has_box:
            raise UserError("name it and say where it is, in hundredths of the picture: /show Rex 10 20 60 90")
        name = " ".join(words[:-4] if has_box else words)
        boxes = [read_box(" ".join(words[-4:]))] if has_box else []
        example = concepts.show(name, Attachment.from_image(self._last_image), boxes, positive=positive)
        self._console.print(described(concepts.get(example.name)), style="dim", markup=False)

    def _show(self, name: str) -> None:
        if not name:
            raise UserError("/image needs the name of a file")
        self._last_image = load_image_file(Path(name.strip("'\"")).expanduser())
        self._new_images.append(self._last_image)
        self._pictures += 1
        size = f"{self._last_image.width} x {self._last_image.height} pixels"
        self._console.print(f"[dim]picture {self._pictures}: {size}; now ask[/dim]")

    def _ask(self, question: str) -> None:
        asked = user_message(self._new_images, question)
        shown = self._new_images or ([self._last_image] if self._last_image else [])
        known = recalled(self._memory, shown, question)
        forced = known.answer if known else None
        request = Request([*self._messages, asked], self._sampling, forced_answer=forced)
        looked, name = None, asked_for(question)
        try:
            completion = self._answering.answer(request, name=name).completion
            about = asked_about(request, shown, eyes=self._answering.eyes is not None)
            if self._looks and about is not None:
                looked = self._looks.take(self._answering, about, question, completion)
        except KeyboardInterrupt:
            self._console.print("[dim](stopped; the question is not kept)[/dim]")
            return
        text = looked.answer if looked else completion.text
        if looked is not None:
            show_looks(looked, checked=self._looks.check)
        self._messages += [asked, {"role": "assistant", "content": text}]
        self._new_images, self._about = [], about
        if self._draw is not None and about is not None and (boxes := named(text, name)):
            save_boxes(about, boxes, self._draw)

    def _correct(self, argument: str) -> None:
        from fourfold.assistant.images import Attachment
        from fourfold.assistant.refine.store import CorrectionStore
        from fourfold.assistant.refine.targets import corrected_answer
        from fourfold.cli.chat_correction import correction_of

        if self._about is None or not self._messages:
            raise UserError("there is no answer about a picture yet that could be corrected")
        question = self._messages[-2]["content"][-1]["text"]
        correction = correction_of(
            self._messages, self._about, argument, asked_for(question), self._answering.engine.model_name
        )
        kept = CorrectionStore(store_directory(self._store)).add(correction, Attachment.from_image(self._about))
        self._memory = self._memory or memory_of(self._store)
        known = self._memory.recall(self._about, question)
        right = (known and known.answer) or corrected_answer(correction) or argument.strip()
        self._messages[-1] = {"role": "assistant", "content": right}
        said = "the same question about this picture is answered so from now on"
        if known is None or known.id != kept.id:
            said = "kept, but not said again: the question needs what was said before it"
        trained = "an adapter may be trained with it" if correction.consent else "no adapter is trained with it"
        self._console.print(
            f"{plain(parse(right), asked_for(question))}\n  {said}; {trained}", style="dim", markup=False
        )
