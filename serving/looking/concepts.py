"""Read-outs of what was shown, kept up with the store that it was shown to."""

import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fourfold.assistant.readouts.concept import concept_readout
from fourfold.assistant.readouts.features import normalised
from fourfold.assistant.readouts.library import NOUN, Readout, ReadoutLibrary
from fourfold.assistant.refine.concepts.store import Concept, ConceptStore
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from fourfold.serving.engine.engine import Engine

log = logging.getLogger("fourfold.eyes")


class ConceptReadouts:
    """The concepts of a store as read-outs of a library's tower. Thread-safe.

    What is shown, renamed or forgotten in the store, by whatever process, counts from the next question on. The
    features of an example are computed once for each tower and kept with its image.
    """

    def __init__(self, store: ConceptStore, engine: "Engine", library: ReadoutLibrary) -> None:
        self.store = store
        self._engine, self._base = engine, library
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._merged = library
        self._built: dict[tuple[str, ...], Readout | None] = {}  # by the concept's name and its examples' ids

    def library(self) -> ReadoutLibrary:
        """The library with all that the store holds.

        Raises:
            UserError: the store cannot be read.
        """
        stamp = self.store.stamp()
        with self._lock:
            if stamp != self._stamp:
                built = {}
                for concept in self.store.list():
                    # "That is not it" alone says nothing of what it is.
                    if any(example.positive for example in concept.examples):
                        key = (concept.name, *(example.id for example in concept.examples))
                        built[key] = self._built[key] if key in self._built else self._readout(concept)
                self._built = built
                known = [readout for readout in built.values() if readout is not None]
                self._merged = self._base.with_concepts(known) if known else self._base
                self._stamp = stamp
            return self._merged

    def _readout(self, concept: Concept) -> Readout | None:
        """None for what cannot be learnt, which must not cost the other concepts."""
        try:
            examples = [(self._features(e.image), list(e.boxes), e.positive) for e in concept.examples]
            readout = concept_readout(concept.name, examples, self._base)
        except UserError as error:
            log.warning("%s cannot be looked for: %s", concept.name, error)
            return None
        noun = next((r for r in self._base.readouts if r.kind == NOUN and r.name == concept.name.lower()), None)
        if noun is None or any(e.correction is None for e in concept.examples):
            return readout
        # Corrections of what the library knows anyway move its read-out a little; it stays the noun's.
        return replace(readout, kind=NOUN, priors=noun.priors, boxes=noun.boxes, offset=noun.offset)

    def _features(self, image: str) -> np.ndarray:
        """(rows, columns, width), normalised."""
        features = self.store.features(image, self._base.tower)
        if features is None:
            features = normalised(self._engine.vision_features(self.store.image(image).decode()))
            self.store.keep_features(image, self._base.tower, features)
        return features
