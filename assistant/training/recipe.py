"""A training run, declared: a YAML file read into dataclasses, with every unknown or missing key refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, with_config

from fourfold.assistant.training.data.mixture import AtLeast0, AtLeast1, MixtureConfig, Part
from fourfold.assistant.validation import FORBID_UNKNOWN, validated
from fourfold.prompts.errors import UserError

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Rate = Annotated[float, Field(ge=0)]


@with_config(FORBID_UNKNOWN)
@dataclass(frozen=True)
class LoraSettings:
    """The adapter on the language model."""

    rank: AtLeast0 = 16  # of the updates; 0 for no adapter
    alpha: AtLeast0 = 32  # updates are scaled by alpha / rank
    targets: tuple[str, ...] = LINEAR_LAYERS  # which linear layers
    # first, last: parts of the depth, 0..1, between which layers get an adapter
    first: Part = 0.0
    last: Part = 1.0
    dropout: Part = 0.0  # on the adapter's input


@with_config(FORBID_UNKNOWN)
@dataclass(frozen=True)
class Stage:
    """Steps under one learning rate curve: linear warm-up, then a cosine down to a tenth."""

    steps: AtLeast0  # optimiser steps
    warmup: AtLeast0 = 20  # of these, to warm up
    # peak rate of the projector (and a vision block's two linear layers); 0 leaves it as it is
    projector_lr: Rate = 3e-4
    lora_lr: Rate = 5e-4  # peak rate of the adapter; 0 leaves it as it is


@with_config(FORBID_UNKNOWN)
@dataclass(frozen=True)
class Recipe:
    """All that a run depends on, apart from where its files lie."""

    base: str  # checkpoint to start from: a name that `resolve_model` knows, or a directory
    mixture: MixtureConfig  # what is taught
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]  # one after the other
    # image_size, blocks, fold_shape: variants of the base, as `assemble` takes them; None for the base's own
    image_size: AtLeast1 | None = None
    blocks: AtLeast1 | None = None
    fold_shape: Literal["row", "square"] | None = None
    vision_llm_block: AtLeast0 | None = None  # see `training.vision_llm_block`; None for no such block
    # the projector's start, see `training.warm_start`; "random" as the base has it
    start: Literal["closed_form", "discriminants", "random"] = "closed_form"
    lora: LoraSettings = field(default_factory=LoraSettings)
    # how often a box's tens digits count against its ones digits, which say a tenth as much of where it is
    box_tens: Annotated[float, Field(gt=0)] = 1.0
    batch_size: AtLeast1 = 8  # samples in one pass
    accumulation: AtLeast1 = 1  # passes in one step
    weight_decay: Rate = 0.01  # of all that is trained
    clip: Annotated[float, Field(gt=0)] = 1.0  # largest norm of the gradient
    bucket: AtLeast1 = 8  # batches that are sorted by length together; more means less padding and less mixing
    workers: AtLeast0 = 0  # processes that make batches ahead; 0 makes them in between
    compile: bool = False  # on a GPU, the layers of the language model (minutes of steps are needed to make up for it)
    precompute: bool = False  # compute all features before the first step; otherwise each when it is first needed
    # log_every, evaluate_every, checkpoint_every: in steps
    log_every: AtLeast1 = 10
    evaluate_every: AtLeast1 = 100
    checkpoint_every: AtLeast1 = 25
    held_out_items: AtLeast1 = 60  # of each task, for the periodic evaluation
    seed: int = 0  # everything follows from it

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)


def read_recipe(path: Path) -> Recipe:
    """The recipe of a YAML file.

    Raises:
        UserError: the file is missing or no YAML, a key is unknown or missing, or a value has the wrong type or range.
    """
    return recipe_of(read_yaml(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file.

    Raises:
        UserError: it is missing, no YAML, or no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a mapping of settings")
    return values


def recipe_of(values: Mapping[str, Any], where: str = "the recipe") -> Recipe:
    """The recipe of plain values; `where` names their origin in errors."""
    return validated(Recipe, values, where)


def read_variants(path: Path) -> dict[str, Recipe]:
    """The recipes of an ablation file: `recipe`, a whole recipe, and `variants`, what each of them changes.

    Nested settings are changed one by one: `{lora: {rank: 4}}` keeps the adapter's other settings.

    Raises:
        UserError: the file is not of this form.
    """
    values = read_yaml(path)
    if set(values) != {"recipe", "variants"} or not isinstance(values["variants"], Mapping):
        raise UserError(f"{path} must hold exactly `recipe` and `variants`, a mapping of names to changes")
    return {
        str(name): recipe_of(_merged(values["recipe"], changes or {}), f"{path}, {name}")
        for name, changes in values["variants"].items()
    }


def _merged(values: Any, changes: Any) -> Any:
    if not isinstance(values, Mapping) or not isinstance(changes, Mapping):
        return changes
    return {**values, **{name: _merged(values.get(name), change) for name, change in changes.items()}}
