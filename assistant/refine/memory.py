"""What was corrected before is said when the same is asked about the same picture."""

from dataclasses import dataclass

from PIL import Image

from fourfold.assistant.images import Attachment, pixel_hash
from fourfold.assistant.refine.questions import same_question, stands_alone
from fourfold.assistant.refine.record import Correction
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.targets import corrected_answer

REMEMBERED_HEADER = "x-fourfold-remembered"
"""Of a response that comes from here: the id of the correction."""
MAX_LENGTH = 600
"""Characters of question and answer; longer ones are not remembered."""


@dataclass(frozen=True)
class Recalled:
    """A correction that answers a question.

    Attributes:
        id: of the record.
        question: as it was asked then.
        answer: the right one, to be said in place of the model's.
    """

    id: str
    question: str
    answer: str


class CorrectionMemory:
    """The corrections of a store that are to be remembered, looked up by image and question. Thread-safe.

    What is added, forgotten or excluded in the store, by whatever process, counts from the next question on.
    """

    def __init__(self, store: CorrectionStore) -> None:
        self._store = store
        self._known: tuple[tuple[int, ...] | None, list[tuple[Correction, str]]] = (None, [])

    def recall(self, image: Attachment | Image.Image, question: str) -> Recalled | None:
        """What was corrected about this picture when it was asked the same question; the newest of several.

        An attachment is decoded for its hashes only where this question was corrected before, so ask where decoding is
        allowed for.

        Args:
            image: as it was sent, or, where that is all there is, the upright picture.
            question: the text of the user's message, its task tag included.

        Raises:
            UserError: the image cannot be read, or the store cannot.
        """
        asked = [(c, answer) for c, answer in self._corrections() if same_question(c.question, question)]
        if not asked:
            return None
        hashes = image.hashes if isinstance(image, Attachment) else frozenset({pixel_hash(image)})
        same = self._store.images_like(hashes)
        for correction, answer in reversed(asked):
            if correction.image in same:
                return Recalled(correction.id, correction.question, answer)
        return None

    def _corrections(self) -> list[tuple[Correction, str]]:
        """Corrections that can be understood by themselves, with their answers, the oldest first."""
        stamp = self._store.stamp()
        if self._known[0] != stamp:
            found = []
            for correction in self._store.list(verdict="down", remembered=True, excluded=False):
                # "And its colour?" cannot be understood without what was said before.
                asked = sum(message["role"] == "user" for message in correction.messages)
                if asked > 1 and not stands_alone(correction.question):
                    continue
                answer = corrected_answer(correction)
                if answer is not None and len(correction.question) + len(answer) <= MAX_LENGTH:
                    found.append((correction, answer))
            self._known = (stamp, found)
        return self._known[1]
