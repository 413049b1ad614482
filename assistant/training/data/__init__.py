"""Photos and rendered scenes as the six tasks: what is taught, and what is held out for measuring."""

from fourfold.assistant.training.data.heldout import held_out
from fourfold.assistant.training.data.mixture import Mixture, MixtureConfig
from fourfold.assistant.training.data.sample import ImageRef, Sample, Turn, View

__all__ = ["ImageRef", "Mixture", "MixtureConfig", "Sample", "Turn", "View", "held_out"]
