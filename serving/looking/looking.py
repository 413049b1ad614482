"""Looking before answering: what the eyes know of a question is said in place of what the language model guesses."""

import hashlib
import logging
import re
import threading
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from fourfold.assistant.chat.intent import Intent, Wants, intent_of
from fourfold.assistant.chat.look_again.client import yes_or_no
from fourfold.assistant.chat.look_again.verdicts import number_in
from fourfold.assistant.checkpoints.card import MeasuredCard, read_card
from fourfold.assistant.refine.concepts.store import ConceptStore
from fourfold.prompts.errors import UserError
from fourfold.serving.engine.requests import Completion, Delta, Request
from fourfold.serving.looking.answers import answer_of
from fourfold.serving.looking.claim import EYES, Claim, Said, own_claims
from fourfold.serving.looking.eyes import Detector, Eyes
from fourfold.serving.looking.kinds import wants_short
from fourfold.serving.looking.own_answers import ONE_AT_A_TIME, WHAT_IS_IT, own_answer, plain_answer
from fourfold.serving.looking.question import Asked, read_question
from fourfold.serving.looking.small_talk import WITHOUT_A_PICTURE, reply_to, small_talk

if TYPE_CHECKING:
    from fourfold.assistant.readouts import ReadoutLibrary
    from fourfold.serving.engine.engine import Engine
    from fourfold.serving.looking.concepts import ConceptReadouts

_ABSENCE = re.compile(r"^((?:No, )?I see no [^.]+)\.$")

log = logging.getLogger("fourfold.eyes")


@dataclass(frozen=True)
class Looked:
    """A request after looking.

    Attributes:
        request: what to ask the engine; holds what is to be said where the eyes know it.
        intent: what the question wants that eyes can tell; None for any other question.
        said: what the eyes say; None where the model answers by itself.
    """

    request: Request
    intent: Intent | None = None
    said: Said | None = None

    def claims(self, answer: str) -> tuple[Claim, ...]:
        """What the finished answer claims: what the eyes said, or what the model wrote by itself."""
        if self.said is not None:
            return self.said.claims
        if self.intent is None:
            return own_claims(answer)
        if self.intent.wants is Wants.PRESENCE and (there := yes_or_no(answer)) is not None:
            return (Claim(self.intent.phrase if there else f"no {self.intent.phrase}", None, None, "model"),)
        if self.intent.wants is Wants.NUMBER and (number := number_in(answer)) is not None:
            return (Claim(f"{number or 'no'} {self.intent.phrase}", None, None, "model"),)
        return own_claims(answer, self.intent.phrase)


@dataclass
class Looking:
    """Looks at the picture of a request before the engine answers it. Thread-safe.

    What is found is written in the usual form and given to the engine as the answer to say, so that streaming, the
    count of tokens, limits and caches are those of any answer.

    Attributes:
        engine: answers, and has the tower's features of each picture.
        library: read-outs of the engine's tower.
        concepts: what was shown to it; None for nothing.
        detector: finds and counts what it has classes for; None for none.
        card: how good the model was measured to be; with one that says that it does not talk, the loop says what it
            cannot do and marks what is doubtful. None: the model answers by itself what the eyes do not know.
    """

    engine: "Engine"
    library: "ReadoutLibrary"
    concepts: "ConceptReadouts | None" = None
    detector: Detector | None = None
    card: MeasuredCard | None = None

    @classmethod
    def load(cls, engine: "Engine", checkpoint: Path, concepts: ConceptStore | None = None) -> "Looking | None":
        """Eyes for an engine that was loaded from a checkpoint; None where the checkpoint has no read-outs.

        The detector of `assistant.tools` joins in where its weights were fetched before.

        Raises:
            UserError: the read-outs are damaged, or those of another tower.
        """
        from fourfold.assistant.readouts import load_readouts
        from fourfold.assistant.tools import detector_if_fetched
        from fourfold.serving.looking.concepts import ConceptReadouts

        library = load_readouts(checkpoint)
        if library is None:
            return None
        shown = None if concepts is None else ConceptReadouts(concepts, engine, library)
        return cls(engine, library, shown, detector_if_fetched(), read_card(checkpoint))

    def eyes(self, image: Image.Image) -> Eyes:
        """What can be seen in a picture, concepts included."""
        library = self.library if self.concepts is None else self.concepts.library()
        return Eyes(self.engine, library, image, self.detector)

    def look(self, request: Request, cancel: threading.Event | None = None) -> Looked:
        """Look at what a request asks.

        Args:
            request: comes back as it is where something is to be said already, where the answer has a prescribed form,
                and where its question is none for eyes.
            cancel: when set, what the model is asked meanwhile ends early.

        Raises:
            UserError: the request is malformed or too long.
        """
        prescribed = request.sampling.structured_outputs or request.tools or not request.add_generation_prompt
        if request.forced_answer is not None or prescribed:
            return Looked(request)
        asked = read_question(request.messages)
        small = self._small
        if small is not None and (known := self._without_looking(asked, small, request, cancel)):
            return Looked(replace(request, forced_answer=known.text), said=known)
        intent = intent_of(asked.words)
        if asked.image is None or (intent is None and small is None):
            return Looked(request)
        if small is not None and not asked.is_last:  # it, too, is asked about the one picture that is meant
            request = replace(request, messages=asked.messages)
        said = None
        try:
            eyes = self.eyes(asked.image)
            if intent is not None:
                said = answer_of(intent, eyes, request, cancel, small)
            if said is None and small is not None and not wants_short(asked.words):
                said = own_answer(asked.words, eyes, request, small, cancel)
        except UserError as error:  # the model's own answer is better than none
            log.warning("the eyes saw nothing: %s", error)
        if said is None:
            return Looked(request, intent)
        tagged = intent is not None and intent.tag is not None
        if asked.pictures > 1 and not asked.named and not tagged:  # the last was looked at, which nobody has said yet
            said = replace(said, text=_ABSENCE.sub(rf"\1 in picture {asked.pictures}.", said.text))
        return Looked(replace(request, forced_answer=said.text), intent, said)

    @property
    def _small(self) -> MeasuredCard | None:
        """The card of a model that knows next to nothing but pictures; None of any other."""
        return self.card if self.card is not None and not self.card.talks else None

    def _without_looking(
        self, asked: Asked, card: MeasuredCard, request: Request, cancel: threading.Event | None
    ) -> Said | None:
        """What a small model says where there is nothing to look at, or nobody asks it to."""
        if talk := small_talk(asked.words):
            told = card.eyes or card.alone
            return Said(reply_to(talk, told.line if told else "", picture=asked.pictures > 0))
        if wants_short(asked.words):  # as benchmarks ask, with a picture or blind; only boxes would be absurd
            return None if asked.pictures else Said(plain_answer(self.engine, request, cancel))
        if asked.pictures == 0:
            return Said(WITHOUT_A_PICTURE)
        if asked.image is None:
            those = f"picture 1{' or ' if asked.pictures == 2 else ' to '}{asked.pictures}"
            return Said(f"{ONE_AT_A_TIME} Ask about {those}.")
        return Said(WHAT_IS_IT) if asked.means_it else None

    def answer(self, request: Request) -> tuple[Completion, tuple[Claim, ...]]:
        """The answer, and what it claims.

        Raises:
            UserError: as `look`.
        """
        looked = self.look(request)
        [completion] = self.engine.generate([looked.request])
        return completion, looked.claims(completion.text)

    def stream(self, request: Request) -> "LookedStream":
        """The answer piece by piece.

        Raises:
            UserError: as `look`.
        """
        looked = self.look(request)
        return LookedStream(looked, self.engine.stream(looked.request))


@dataclass
class LookedStream:
    """Pieces of an answer; `claims` are there when the last one is."""

    looked: Looked
    deltas: Generator[Delta, None, None]
    claims: tuple[Claim, ...] = field(default=(), init=False)

    def __iter__(self) -> "LookedStream":
        return self

    def __next__(self) -> Delta:
        delta = next(self.deltas)
        if delta.completion is not None:
            self.claims = self.looked.claims(delta.completion.text)
        return delta

    def close(self) -> None:
        """End the answer."""
        self.deltas.close()


def eyes_revision(checkpoint: Path) -> str:
    """Names what an answer with eyes depends on beside the checkpoint; "" where there are no read-outs."""
    from fourfold.assistant.checkpoints.bridge import BRIDGE
    from fourfold.assistant.readouts import READOUTS, load_readouts
    from fourfold.assistant.tools import detector_if_fetched

    library = checkpoint / READOUTS
    if not library.is_file():
        if load_readouts(checkpoint) is None:
            return ""
        library = BRIDGE / READOUTS
    digest = hashlib.sha256(library.read_bytes()).hexdigest()[:8]
    return f"{EYES}-{digest}{'' if detector_if_fetched() is None else '-detector'}"
