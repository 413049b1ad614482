"""The options that `run`, `converse` and `beaf` share: who is asked, about which images, and in which words."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from fourfold.assistant.grounding import BoxFormat
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from fourfold.eval.data.locate import Located
    from fourfold.eval.model import Model
    from fourfold.eval.prompting import PromptConfig
    from fourfold.eval.tasks.benchmark_run import RunOptions

PREDICTIONS_HELP = "JSON or JSON Lines with question_id (or id) and answer (or text, prediction; boxes for pointing)."
ANNOTATIONS_HELP = "The benchmark's official annotation file, or a map from question id to answers."
DATA_HELP = "A local Hugging Face copy, a VLMEvalKit TSV, or a folder of official files, images and all."
SPLIT_HELP = "Which split of --data, where it has several."
DOWNLOAD_HELP = "Fetch --data OWNER/NAME from the Hub; without this nothing uses the network."

Annotations = Annotated[Path | None, typer.Option("--annotations", help=ANNOTATIONS_HELP)]
Questions = Annotated[Path | None, typer.Option("--questions", help="Question file; alone it means a test split.")]
Boxes = Annotated[
    BoxFormat | None,
    typer.Option(
        "--box-format",
        metavar="FORMAT",
        help=f"How the model writes boxes; by default as its name tells. One of {', '.join(BoxFormat)}.",
    ),
]
GroundTruth = Annotated[str, typer.Option("--gt-field", help="VQA's ground truth; OK-VQA has raw_answer too.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of this run; a stopped run goes on there.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


@dataclass(frozen=True)
class Asking:
    """What the shared options say; `with_asking` fills it."""

    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images.")] = None
    data: Annotated[str | None, typer.Option("--data", help=DATA_HELP)] = None
    split: Annotated[str | None, typer.Option("--split", help=SPLIT_HELP)] = None
    download: Annotated[bool, typer.Option("--download", help=DOWNLOAD_HELP)] = False
    endpoint: Annotated[
        list[str] | None, typer.Option("--endpoint", help="OpenAI-compatible server; may be repeated.")
    ] = None
    model: Annotated[
        str | None,
        typer.Option("--model", "--served-model", help="Served name, or without --endpoint a checkpoint."),
    ] = None
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many questions (for card: a kind).")
    ] = None
    recipe: Annotated[str | None, typer.Option("--recipe", help="A published way of asking: minigpt-v2.")] = None
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="Wording: minigpt4, plain or a family's (qwen3-vl); by default the model's."),
    ] = None
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, help="Length of an answer; 20 unless the questions ask for more."),
    ] = None
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="Requests in flight at most, an endpoint.")
    ] = 16
    api_key: Annotated[str, typer.Option("--api-key", envvar="FOURFOLD_API_KEY", help="For the endpoints.")] = "none"
    skip_missing_images: Annotated[
        bool, typer.Option("--skip-missing-images", help="Leave questions without image out.")
    ] = False
    seed: Annotated[int, typer.Option("--seed", help="Of all draws.")] = 0
    device: Annotated[str, typer.Option("--device", help="For a checkpoint: auto, cpu, cuda, mps (untested).")] = "auto"
    no_eyes: Annotated[
        bool, typer.Option("--no-eyes", help="Of a checkpoint the language model alone, without read-outs.")
    ] = False

    def prompting(self, benchmark: str, box_format: BoxFormat | None = None) -> "PromptConfig":
        """Wording, length and template of the questions of a benchmark.

        Raises:
            UserError: an option contradicts the recipe, or a name is unknown.
        """
        from fourfold.eval.prompting import resolve_config

        # A checkpoint in this process is of our own kind; what an endpoint serves tells its name.
        model = self.open_model().identity if self.endpoint and self.recipe is None else None
        return resolve_config(
            self.recipe,
            benchmark,
            wording=self.prompt,
            max_tokens=self.max_tokens,
            box_format=box_format,
            model=model,
        )

    def run_options(
        self, benchmark: str, annotations: Path | None, out: Path, box_format: BoxFormat | None, **more: Any
    ) -> "RunOptions":
        """A run of a benchmark with everything that the shared options say about it; its model is to be closed.

        Raises:
            UserError: an option contradicts another, or a name is unknown.
        """
        from fourfold.eval.data.table import is_table
        from fourfold.eval.tasks.benchmark_run import RunOptions

        prompting, images = self.prompting(benchmark, box_format), self.images
        if located := locate_data(self.data, annotations, more.get("questions"), self.split, self.download):
            annotations = located.annotations
            more["questions"] = located.questions
            images = images or located.images
        if images is None and (annotations is None or not is_table(annotations)):
            raise UserError("give --images DIR, the folder of the images, or --data with a table that holds them")
        return RunOptions(
            benchmark=benchmark,
            prompting=prompting,
            images=images,
            annotations=annotations,
            split=self.split,
            out=out,
            limit=self.limit,
            seed=self.seed,
            skip_missing_images=self.skip_missing_images,
            **more,
            model=self.open_model(),  # last: a default model may have to be downloaded
        )

    def open_model(self, *, eyes: bool = True) -> "Model":
        """Who answers: the endpoints, else the checkpoint, with its `eyes` unless told otherwise; to be closed.

        Raises:
            UserError: an option is for the other of the two.
        """
        if self.endpoint:
            if self.no_eyes:
                raise UserError("--no-eyes is for a checkpoint; at an endpoint ask for the model's name without +eyes")
            from fourfold.eval.endpoint import EndpointModel

            return EndpointModel(
                self.endpoint, self.model, api_key=self.api_key, seed=self.seed, concurrency=self.concurrency
            )
        from fourfold.assistant.checkpoints.resolve import resolve_model
        from fourfold.eval.model import EngineModel

        return EngineModel(resolve_model(self.model), device=self.device, eyes=eyes and not self.no_eyes)


def locate_data(
    data: str | None, annotations: Path | None, questions: Path | None, split: str | None, download: bool
) -> "Located | None":
    """The files that --data names, None where it is not given.

    Raises:
        UserError: it names nothing, or options contradict each other.
    """
    if data is None:
        if download:
            raise UserError("--download fetches what --data names; give --data OWNER/NAME")
        return None
    from fourfold.eval.data.locate import locate

    if annotations is not None or questions is not None:
        raise UserError("--data names the questions and their answers: leave --annotations and --questions out")
    return locate(data, download=download)


def with_asking(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Asking`, of which it gets one object as its parameter `asking`.

    Typer reads a command's options off its signature, so the wrapper shows one with the parameter spread out.
    """
    names = [field.name for field in fields(Asking)]
    hints = get_type_hints(Asking, include_extras=True)
    spread = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(Asking)
    ]

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        asking = Asking(**{name: given.pop(name) for name in names})
        command(asking=asking, **given)

    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != "asking"
    ]
    shown = [*own, *spread]
    wrapper.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return wrapper
