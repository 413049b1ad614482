"""How a benchmark's questions are put: wording, length, and what the chat template is told; by name or one by one."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fourfold.assistant.grounding import BoxFormat, family_of
from fourfold.eval.benchmarks import Benchmark, benchmark_named
from fourfold.prompts.benchmarks import ABOUT_BOXES, WORDINGS, benchmark_prompt
from fourfold.prompts.errors import UserError


@dataclass(frozen=True)
class PromptConfig:
    """What is the same for every question of a run; answers are greedy always.

    Attributes:
        wording: of the prompts, a key of `prompts.benchmarks.WORDINGS`.
        max_tokens: length of an answer.
        box_format: how the model writes boxes; None for what the benchmark takes for granted.
        recipe: name of the recipe that all this is, if it is one.
        template: variables for the model's chat template.
    """

    wording: str = "minigpt4"
    max_tokens: int = 20
    box_format: BoxFormat | None = None
    recipe: str | None = None
    template: Mapping[str, bool] = field(default_factory=dict)


# MiniGPT-v2's evaluation scripts: greedy, at most 20 new tokens, one way of asking a benchmark. They tokenise the
# prompt in two parts, each with its BOS, but for IconVQA, whose script has one.
_RECIPE = PromptConfig("minigpt4", 20, BoxFormat.TOKENS, "minigpt-v2")
_LONGEST_BOX = 128
"""Tokens that an answer with a box gets at least where it is JSON, or digits one by one."""
_ONE_BOS = frozenset({"iconvqa"})
_WITHOUT = frozenset({"phrase-grounding", "detection"})
"""Benchmarks that the recipe says nothing about."""


def resolve_config(
    recipe: str | None,
    benchmark: str,
    *,
    wording: str | None = None,
    max_tokens: int | None = None,
    box_format: BoxFormat | None = None,
    model: str | None = None,
) -> PromptConfig:
    """The prompting of a recipe, or of options given one by one (None: not given).

    A `model` whose name tells its family is asked and read in that family's way, unless an option says otherwise.

    Raises:
        UserError: the recipe or the wording does not exist, or an option asks for something else than the recipe.
    """
    bench = benchmark_named(benchmark)
    if wording is not None and wording not in WORDINGS:
        raise UserError(f"no wording is called {wording!r}; there are: {', '.join(WORDINGS)}")
    if recipe is None:
        family = family_of(model) if model else None
        about_boxes = bench.name in ABOUT_BOXES
        if family is None or family.box_format is BoxFormat.TOKENS:
            digits = about_boxes and box_format not in (None, BoxFormat.TOKENS)
            longest = max(bench.max_tokens, _LONGEST_BOX) if digits else bench.max_tokens
            return PromptConfig(wording or "minigpt4", max_tokens or longest, box_format)
        own = family.name if about_boxes and box_format in (None, family.box_format) else "plain"
        longest = max(bench.max_tokens, _LONGEST_BOX) if about_boxes else bench.max_tokens
        declared = box_format or (family.box_format if about_boxes else None)
        return PromptConfig(wording or own, max_tokens or longest, declared)
    if recipe != _RECIPE.recipe:
        raise UserError(f"no recipe is called {recipe!r}; there is: {_RECIPE.recipe}")
    for option, asked, wanted in (
        ("--prompt", wording, _RECIPE.wording),
        ("--max-tokens", max_tokens, _RECIPE.max_tokens),
        ("--box-format", box_format, _RECIPE.box_format),
    ):
        if asked not in (None, wanted):
            raise UserError(
                f"{option} {asked} is not the recipe {recipe}, which has {wanted}; leave one of the two out"
            )
    if bench.name in _WITHOUT:
        raise UserError(f"the recipe {recipe} has no {bench.name}; leave --recipe out")
    return replace(_RECIPE, template={"double_bos": bench.name not in _ONE_BOS})


def prompt_of(bench: Benchmark, words: str, config: PromptConfig) -> str:
    """The whole prompt of a benchmark's question, whose files have these words."""
    return benchmark_prompt(bench.name, config.wording, box_format=config.box_format, **{bench.prompt_field: words})
