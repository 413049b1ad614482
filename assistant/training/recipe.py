"""A training run, declared: a YAML file read into dataclasses, with every unknown or missing key refused."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fourfold.assistant.training.data.mixture import MixtureConfig
from fourfold.prompts.errors import UserError

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class LoraSettings:
    """The adapter on the language model.

    Attributes:
        rank: of the updates; 0 for no adapter.
        alpha: updates are scaled by alpha / rank.
        targets: which linear layers.
        first, last: parts of the depth, 0..1, between which layers get an adapter.
        dropout: on the adapter's input.
    """

    rank: int = 16
    alpha: int = 32
    targets: tuple[str, ...] = LINEAR_LAYERS
    first: float = 0.0
    last: float = 1.0
    dropout: float = 0.0


@dataclass(frozen=True)
class Stage:
    """Steps under one learning rate curve: linear warm-up, then a cosine down to a tenth.

    Attributes:
        steps: optimiser steps.
        warmup: of these, to warm up.
        projector_lr: peak rate of the projector (and a vision block's two linear layers); 0 leaves it as it is.
        lora_lr: peak rate of the adapter; 0 leaves it as it is.
    """

    steps: int
    warmup: int = 20
    projector_lr: float = 3e-4
    lora_lr: float = 5e-4


@dataclass(frozen=True)
class Recipe:
    """All that a run depends on, apart from where its files lie.

    Attributes:
        base: checkpoint to start from: a name that `resolve_model` knows, or a directory.
        image_size, blocks, vision_llm_block: variants of the base, as `assemble` takes them; None for the base's own.
        mixture: what is taught.
        start: the projector's start, "closed_form" or "random" (as the base has it).
        lora: the adapter.
        stages: one after the other.
        batch_size: images in one pass.
        accumulation: passes in one step.
        weight_decay: of all that is trained.
        clip: largest norm of the gradient.
        bucket: batches that are sorted by length together; more means less padding and less mixing.
        workers: processes that make batches ahead; 0 makes them in between.
        precompute: compute all features before the first step; otherwise each when it is first needed.
        log_every, evaluate_every, checkpoint_every: in steps.
        held_out_items: of each task, for the periodic evaluation.
        seed: everything follows from it.
    """

    base: str
    mixture: MixtureConfig
    stages: tuple[Stage, ...]
    image_size: int | None = None
    blocks: int | None = None
    vision_llm_block: int | None = None
    start: str = "closed_form"
    lora: LoraSettings = field(default_factory=LoraSettings)
    batch_size: int = 8
    accumulation: int = 1
    weight_decay: float = 0.01
    clip: float = 1.0
    bucket: int = 8
    workers: int = 0
    precompute: bool = False
    log_every: int = 10
    evaluate_every: int = 100
    checkpoint_every: int = 25
    held_out_items: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        if self.start not in ("closed_form", "random"):
            raise UserError(f"start is {self.start!r}; choose closed_form or random")
        if not self.stages:
            raise UserError("the recipe has no stages; give at least one with its number of steps")

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)


def read_recipe(path: Path) -> Recipe:
    """The recipe of a YAML file.

    Raises:
        UserError: the file is missing or no YAML, a key is unknown or missing, or a value has the wrong type.
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
    """The recipe of plain values; `where` names their origin in errors.

    Raises:
        UserError: as `read_recipe`.
    """
    return build(Recipe, values, where)


def build(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `kind`: dataclasses from mappings, tuples from lists, the rest as it is.

    Raises:
        UserError: a setting is unknown, missing or of the wrong type; `where` names its origin.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, Mapping):
            raise UserError(f"{where} must be a mapping")
        hints = typing.get_type_hints(kind)
        if unknown := set(value) - set(hints):
            raise UserError(f"{where}: unknown setting {sorted(unknown)[0]!r}; known are {', '.join(hints)}")
        try:
            return kind(**{name: build(hints[name], part, f"{where}, {name}") for name, part in value.items()})
        except TypeError as error:  # a required field that is not given
            raise UserError(f"{where}: {str(error).partition('() ')[2] or error}") from error
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} must be a list")
        return tuple(build(arguments[0], part, f"{where} {i + 1}") for i, part in enumerate(value))
    if origin is types.UnionType:
        return None if value is None else build(next(a for a in arguments if a is not type(None)), value, where)
    if origin is not None:  # a mapping of names to numbers
        if not isinstance(value, Mapping):
            raise UserError(f"{where} must be a mapping")
        return {str(name): build(arguments[1], part, f"{where}, {name}") for name, part in value.items()}
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:  # YAML reads 3e-4 as text
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where} must be of type {kind.__name__}, not {value!r}")
    return value
