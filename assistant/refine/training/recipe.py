"""How corrections are learnt: the settings of a refinement, and the training recipe that follows from them."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import with_config

from fourfold.assistant.training.data.mixture import MixtureConfig
from fourfold.assistant.training.data.photos import SOURCES
from fourfold.assistant.training.data.sample import photos_directory
from fourfold.assistant.training.preference import Preference
from fourfold.assistant.training.recipe import LoraSettings, Recipe, Stage, read_recipe, read_yaml
from fourfold.assistant.validation import FORBID_UNKNOWN, validated
from fourfold.prompts.errors import UserError

DEFAULT = Path(__file__).parent / "recipes" / "default.yaml"
_MIXTURE = Path(__file__).parents[2] / "training" / "recipes" / "mini_cpu.yaml"
"""The default model's, for checkpoints that do not say what they were taught."""


@with_config(FORBID_UNKNOWN)
@dataclass(frozen=True)
class Refinement:
    """Settings of a refinement.

    Attributes:
        lora: the adapter.
        lora_lr: its peak rate.
        projector_lr: peak rate of the projector. An adapter cannot carry a projector, neither here nor in vLLM; this
            is for comparing which part should learn.
        passes: how often each corrected image should be shown.
        least_steps, most_steps: between which the number of optimiser steps stays, whatever `passes` asks for.
        batch_size: images in a step.
        share: part of a batch that is corrections, at most; the rest is replay. Few corrections take less: they are
            shown over more steps rather than in fewer, beside more replay. With 1 nothing is replayed.
        replay: what the model should not forget; None for what it was taught, as far as that is at hand.
        replay_images: of so many images; their features are the slowest part of a short run.
        replay_turns: questions about one of them, at most.
        rehearse: replay the model's own captions of the corrected images too.
        distilled: 0..1, how much of what is replayed is what the model thought before training; the rest is the right
            answer.
        preference: what is learnt from the answers that were rejected; None for nothing.
        contrast: derive "red or blue?" where an answer was corrected by one word.
        annotations: derive what a box holds, and where that is, from corrected boxes with words.
        held_out: part of the corrected images that is not learnt from, so that the gate can measure.
    """

    lora: LoraSettings = field(default_factory=lambda: LoraSettings(rank=8, alpha=16))
    lora_lr: float = 4e-4
    projector_lr: float = 0.0
    passes: float = 4.0
    least_steps: int = 40
    most_steps: int = 60
    batch_size: int = 8
    share: float = 0.25
    replay: MixtureConfig | None = None
    replay_images: int = 96
    replay_turns: int = 4
    rehearse: bool = True
    distilled: float = 1.0
    preference: Preference | None = None
    contrast: bool = False
    annotations: bool = True
    held_out: float = 0.25

    def __post_init__(self) -> None:
        for name, low, high in (("share", 0.0, 1.0), ("held_out", 0.0, 0.9), ("distilled", 0.0, 1.0)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} of the refinement is {getattr(self, name)}; choose {low:g} to {high:g}")
        if self.share < 1 and min(self.replay_images, self.replay_turns) < 1:
            raise UserError("replay_images and replay_turns must be at least 1; for no replay at all set share to 1")
        if self.share == 0 or min(self.least_steps, self.most_steps, self.batch_size) < 1:
            raise UserError("a refinement needs steps, a batch size and a share of corrections above 0")

    def corrections_in_a_batch(self, samples: int) -> int:
        """How many of a batch are corrections, of so many corrected samples in all; at least one."""
        if self.share == 1:
            return self.batch_size
        return max(1, min(round(self.passes * samples / self.most_steps), round(self.share * self.batch_size)))

    def steps(self, samples: int, most: int | None = None) -> int:
        """Optimiser steps for so many corrected samples."""
        wanted = round(self.passes * samples / self.corrections_in_a_batch(samples))
        return min(max(wanted, self.least_steps), self.most_steps, most or self.most_steps)

    def training(self, replay: MixtureConfig, steps: int, seed: int) -> Recipe:
        """The trainer's recipe."""
        stage = Stage(steps, warmup=min(5, steps), projector_lr=self.projector_lr, lora_lr=self.lora_lr)
        return Recipe(
            base="the model that was corrected",
            mixture=replay,
            stages=(stage,),
            start="random",  # which leaves the projector as it is
            lora=self.lora,
            batch_size=self.batch_size,
            bucket=1,  # corrections and replay must stay in the same batch, whatever their lengths
            precompute=True,
            log_every=1,
            evaluate_every=10**9,
            checkpoint_every=5,
            seed=seed,
        )


def read_refinement(path: Path | None = None) -> Refinement:
    """The settings of a YAML file, those of `recipes/default.yaml` without one.

    Raises:
        UserError: the file is missing or no YAML, or a setting is unknown or wrong.
    """
    path = path or DEFAULT
    return validated(Refinement, read_yaml(path), str(path))


def replay_of(model_directory: Path, refinement: Refinement, seed: int) -> MixtureConfig:
    """What to replay: the refinement's mixture, or the one that the model was taught (its `bridge.json`).

    Photos and pseudo-labels whose files are not on this machine are left out; rendered scenes are always there.

    Raises:
        UserError: something is to be replayed, and neither photos nor scenes are left.
    """
    mixture = refinement.replay or _own_mixture(model_directory) or read_recipe(_MIXTURE).mixture
    photos = {source: passes for source, passes in mixture.photos.items() if source in _sources_here()}
    if refinement.share < 1 and not photos and not mixture.scenes:
        raise UserError(
            "nothing is left to replay: the photos are not here (FOURFOLD_DATA) and the mixture has no scenes"
        )
    labels = mixture.pseudo_labels
    if labels and not (photos and (photos_directory() / labels).is_file()):
        labels = None
    turns = min(mixture.turns, refinement.replay_turns)
    return replace(mixture, photos=photos, pseudo_labels=labels, turns=turns, multi_turn=0.0, seed=seed)


def _own_mixture(model_directory: Path) -> MixtureConfig | None:
    path = model_directory / "bridge.json"
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["recipe"]["mixture"]
    except (ValueError, KeyError, TypeError):
        return None  # a bridge with a shorter story; the default mixture does
    return validated(MixtureConfig, told, str(path))


def _sources_here() -> frozenset[str]:
    try:
        directory = photos_directory()
    except UserError:
        return frozenset()
    return frozenset(source for source in SOURCES if (directory / f"{source}.jsonl").is_file())
