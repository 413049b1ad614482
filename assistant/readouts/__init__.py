"""Linear read-outs of the frozen image tower: where a noun or a thing shown once is, and whether it is there at all."""

from fourfold.assistant.readouts.concept import concept_readout
from fourfold.assistant.readouts.domain import Domain
from fourfold.assistant.readouts.example import Example, NamedThing
from fourfold.assistant.readouts.features import normalised
from fourfold.assistant.readouts.learner import ReadoutLearner
from fourfold.assistant.readouts.learning import learn_library
from fourfold.assistant.readouts.library import Finding, Readout, ReadoutLibrary
from fourfold.assistant.readouts.phrase import Target, read_phrase
from fourfold.assistant.readouts.storage import READOUTS, load_readouts, read_library, save_library

__all__ = [
    "READOUTS",
    "Domain",
    "Example",
    "Finding",
    "NamedThing",
    "Readout",
    "ReadoutLearner",
    "ReadoutLibrary",
    "Target",
    "concept_readout",
    "learn_library",
    "load_readouts",
    "normalised",
    "read_library",
    "read_phrase",
    "save_library",
]
