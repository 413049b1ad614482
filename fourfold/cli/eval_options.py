"""The options that `run`, `converse` and `beaf` share: who is asked, about which images, and in which words."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from fourfold.eval.scorers.boxes import BoxFormat
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from fourfold.eval.model import Model
    from fourfold.eval.prompting import PromptConfig
    from fourfold.eval.tasks.benchmark_run import RunOptions

PREDICTIONS_HELP = "JSON or JSON Lines with question_id (or id) and answer (or text, prediction; boxes for pointing)."
ANNOTATIONS_HELP = "The benchmark's official annotation file, or a map from question id to answers."

Annotations = Annotated[Path | None, typer.Option("--annotations", help=ANNOTATIONS_HELP)]
Questions = Annotated[Path | None, typer.Option("--questions", help="Question file; alone it means a test split.")]
Boxes = Annotated[BoxFormat | None, typer.Option("--box-format", help="How the model writes boxes.")]
GroundTruth = Annotated[str, typer.Option("--gt-field", help="VQA's ground truth; OK-VQA has raw_answer too.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of this run; a stopped run goes on there.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


@dataclass(frozen=True)
class Asking:
    """What the shared options say; `with_asking` fills it."""

    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images.")] = None
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
    prompt: Annotated[str | None, typer.Option("--prompt", help="Wording: minigpt4 (default) or plain.")] = None
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
    device: Annotated[str, typer.Option("--device", help="For a checkpoint: auto, cpu, cuda.")] = "auto"

    @property
    def image_folder(self) -> Path:
        """The folder of the images.

        Raises:
            UserError: none was given.
        """
        if self.images is None:
            raise UserError("give --images DIR, the folder of the images")
        return self.images

    def prompting(self, benchmark: str, box_format: BoxFormat | None = None) -> "PromptConfig":
        """Wording, length and template of the questions of a benchmark.

        Raises:
            UserError: an option contradicts the recipe, or a name is unknown.
        """
        from fourfold.eval.prompting import resolve_config

        return resolve_config(
            self.recipe, benchmark, wording=self.prompt, max_tokens=self.max_tokens, box_format=box_format
        )

    def run_options(
        self, benchmark: str, annotations: Path | None, out: Path, box_format: BoxFormat | None, **more: Any
    ) -> "RunOptions":
        """A run of a benchmark with everything that the shared options say about it; its model is to be closed.

        Raises:
            UserError: an option contradicts another, or a name is unknown.
        """
        from fourfold.eval.tasks.benchmark_run import RunOptions

        return RunOptions(
            benchmark=benchmark,
            prompting=self.prompting(benchmark, box_format),
            images=self.image_folder,
            annotations=annotations,
            out=out,
            limit=self.limit,
            seed=self.seed,
            skip_missing_images=self.skip_missing_images,
            **more,
            model=self.open_model(),  # last: a default model may have to be downloaded
        )

    def open_model(self) -> "Model":
        """Who answers: the endpoints, else the checkpoint; to be closed."""
        if self.endpoint:
            from fourfold.eval.endpoint import EndpointModel

            return EndpointModel(
                self.endpoint, self.model, api_key=self.api_key, seed=self.seed, concurrency=self.concurrency
            )
        from fourfold.assistant.checkpoints.resolve import resolve_model
        from fourfold.eval.model import EngineModel

        return EngineModel(resolve_model(self.model), device=self.device)


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
