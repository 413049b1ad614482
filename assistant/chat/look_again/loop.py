"""The model in the loop of its own vision: an answer is looked at again before it is believed."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from fourfold.assistant.chat.look_again.claims import claims_of, subject, without
from fourfold.assistant.chat.look_again.client import Ask, Budget, BudgetedClient, Step, Stopped
from fourfold.assistant.chat.look_again.second_answer import Closer, TextLine, look_closer, read_text, with_text
from fourfold.assistant.chat.look_again.verdicts import Agreement, Checked, See, agree, check


@dataclass
class LookedAgain:
    """What looking again came to."""

    answer: str  # the answer in the end; the first one where nothing spoke against it
    first: str  # the answer that was looked at
    claims: list[Checked] = field(default_factory=list)  # what it claims, with verdicts (`check`)
    closer: Closer | None = None  # the second answer (`look_closer`), None where there was nothing to look closer at
    agreement: Agreement | None = None  # whether three answers about the same thing fit together (`agree`)
    text: list[TextLine] = field(default_factory=list)  # the lines read in the image (`read`)
    stopped: str | None = None  # why it ended early, or None
    steps: list[Step] = field(default_factory=list)
    calls: int = 0
    seconds: float = 0.0

    def claims_json(self) -> list[dict[str, Any]]:
        """The claims as `--json` prints them: `{phrase, verdict, box, evidence}`."""
        return [checked.to_json() for checked in self.claims]


def look_again(
    ask: Ask,
    image: Image.Image,
    question: str,
    answer: str,
    *,
    check_claims: bool = False,
    closer: bool = False,
    read: bool = False,
    agreement: bool = False,
    rewrite: bool = False,
    budget: Budget | None = None,
    cancel: threading.Event | None = None,
    on_step: Callable[[Step], object] | None = None,
    see: See | None = None,
) -> LookedAgain:
    """Look at an answer again, in the ways that are asked for; each costs questions to the model.

    Args:
        ask: `ask(messages, images) -> text`, any model; see `ask_with` and `with_images`.
        image: the original at full resolution, RGB.
        question: with its task tag, if it has one.
        answer: the model's first answer to it.
        check_claims: look at what the answer claims (up to four questions a claim).
        closer: ask again about the region that matters (up to two questions); its answer replaces the first one.
        read: read the text in the image and ask again with it (one question); that answer replaces the first one.
        agreement: ask for number, yes or no, and boxes of the question's subject (three questions).
        rewrite: leave unsupported claims out of the answer; a yes or no that is unsupported is turned round.
        budget: of questions and seconds; 16 and 60 unless given.
        cancel: set it, from another thread, to stop before the next question.
        on_step: called with each step as it happens.
        see: eyes beside the model's, for `check_claims`; see `check`.

    Returns:
        The answer in the end and how it came about. A model that fails, a spent budget or a cancellation end it early
        with what was found so far; nothing is raised for them.
    """
    asker = BudgetedClient(ask, budget, cancel, on_step)
    asker.know(question, answer)
    looked = LookedAgain(answer, answer, steps=asker.steps)
    try:
        if read:
            looked.text = read_text(image)
            asker.tell("read", "text in the image: " + (" / ".join(line.text for line in looked.text) or "none"))
            if looked.text:
                looked.answer = asker.question(image, with_text(question, looked.text)) or looked.answer
        if closer:
            looked.closer = look_closer(asker, image, question, looked.answer)
            if looked.closer is not None and looked.closer.answer.strip():
                looked.answer = looked.closer.answer
        if agreement and (thing := subject(question)):
            looked.agreement = agree(asker, image, thing)
        if check_claims:
            looked.claims, looked.stopped = check(asker, image, claims_of(question, looked.answer), see)
            if rewrite:
                looked.answer = _rewritten(looked.answer, looked.claims)
    except Stopped as stop:
        looked.stopped = str(stop)
    if looked.stopped is not None:
        asker.tell("stopped", looked.stopped)
    looked.calls, looked.seconds = asker.calls, asker.seconds
    return looked


def _rewritten(answer: str, claims: list[Checked]) -> str:
    wrong = [checked.claim for checked in claims if checked.verdict == "unsupported"]
    if not wrong:
        return answer
    if len(claims) == 1 and answer.strip(" .!").lower() in ("yes", "no"):
        return "yes" if wrong[0].denied else "no"
    return without(answer, [claim.phrase for claim in wrong])
