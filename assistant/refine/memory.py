"""What was corrected before comes back when the same is asked about the same image, or one very much like it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fourfold.assistant.grounding import parse
from fourfold.assistant.refine.encoder import ImageEncoder
from fourfold.assistant.refine.pictures import identify, marks_of, upright
from fourfold.assistant.refine.questions import same_question
from fourfold.assistant.refine.record import Correction
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.targets import NeedsReview, target_of

ALIKE = 0.98
"""Cosine of two images' vectors from which on they count as one picture; measured by `benchmarks/recall.py`."""
MAX_LENGTH = 600
"""Characters of question and answer; what is longer would take too much of a small model's context."""


@dataclass(frozen=True)
class Recalled:
    """A correction that answers a question.

    Attributes:
        id: of the record.
        question: as it was asked then.
        answer: the right one.
        alike: 1 for the same picture, else the cosine of the two images.
    """

    id: str
    question: str
    answer: str
    alike: float

    @property
    def known(self) -> str | None:
        """What is said without asking the model: the right answer to the same question about the same picture.

        A model need not take up what stands in the conversation: the default one never does (docs/refinement.md).
        """
        return self.answer if self.alike == 1 else None


class Memory:
    """The consented corrections of a store, looked up by image and question. Thread-safe.

    What is added or forgotten in the store, by whatever process, counts from the next question on.

    Args:
        store: of the corrections.
        encoder: compares images; None to know only the same pictures again.
        alike: least cosine of similar images.
    """

    def __init__(self, store: CorrectionStore, encoder: ImageEncoder | None = None, *, alike: float = ALIKE) -> None:
        self._store = store
        self._encoder = encoder
        self._alike = alike
        self._known: tuple[tuple[int, int] | None, list[tuple[Correction, str]]] = (None, [])

    def recall(self, image: bytes | Image.Image, question: str) -> Recalled | None:
        """What was corrected about this image when it was asked the same question.

        The same picture goes before a similar one, a newer correction before an older one. Boxes are remembered for
        the same picture only: in a cropped one they lie elsewhere.

        Args:
            image: a file's bytes, or an upright RGB image.
            question: the text of the user's message, its task tag included.

        Raises:
            UserError: the image cannot be read, or the store cannot.
        """
        # Words first: they are cheap, and hardly any question was corrected before.
        asked = [(c, answer) for c, answer in self._corrections() if same_question(c.question, question)]
        if not asked:
            return None
        same = self._store.images_like(identify(image).marks if isinstance(image, bytes) else marks_of(image))
        for correction, answer in reversed(asked):
            if correction.image in same:
                return Recalled(correction.id, correction.question, answer, 1.0)
        asked = [(correction, answer) for correction, answer in asked if not parse(answer).phrases]
        if self._encoder is None or not asked:
            return None
        if isinstance(image, bytes):
            image = upright(image)
        vector = self._encoder.vectors([image])[0]
        known = self._vectors([correction.image for correction, _ in asked])
        likeness = [float(vector @ known[c.image]) if c.image in known else 0.0 for c, _ in asked]
        best = max(range(len(asked)), key=lambda place: (likeness[place], place))
        if likeness[best] < self._alike:
            return None
        correction, answer = asked[best]
        return Recalled(correction.id, correction.question, answer, likeness[best])

    def _corrections(self) -> list[tuple[Correction, str]]:
        """Consented corrections of single questions with their answers, the oldest first."""
        stamp = self._store.stamp()
        if self._known[0] != stamp:
            found = []
            for correction in self._store.list(verdict="down", consented=True):
                # "And its colour?" cannot be understood without what was said before.
                if sum(message["role"] == "user" for message in correction.messages) > 1:
                    continue
                try:
                    answer = target_of(correction)
                except NeedsReview:
                    continue
                if answer is not None and len(correction.question) + len(answer) <= MAX_LENGTH:
                    found.append((correction, answer))
            self._known = (stamp, found)
        return self._known[1]

    def _vectors(self, images: Sequence[str]) -> dict[str, np.ndarray]:
        assert self._encoder is not None
        name = self._encoder.name
        known = {image: np.frombuffer(data, "<f4") for image, data in self._store.vectors(name).items()}
        for image in set(images) - set(known):
            known[image] = self._encoder.vectors([upright(self._store.image(image))])[0]
            self._store.keep_vector(image, name, known[image].astype("<f4").tobytes())
        return known


def reminded(messages: Sequence[Mapping[str, Any]], recalled: Recalled) -> list[dict[str, Any]]:
    """The conversation with the remembered question and answer before its last message, as if said just before.

    The images of the last message move to the remembered question, so that it is asked about them.

    Args:
        messages: role and content, text or parts; the last one is the user's question.
        recalled: what to remind of.
    """
    *before, last = (dict(message) for message in messages)
    content = last["content"]
    images = [] if isinstance(content, str) else [part for part in content if part["type"] != "text"]
    words = content if isinstance(content, str) else [part for part in content if part["type"] == "text"]
    earlier = [*images, {"type": "text", "text": recalled.question}] if images else recalled.question
    return [
        *before,
        {"role": "user", "content": earlier},
        {"role": "assistant", "content": recalled.answer},
        {**last, "content": words},
    ]
