"""A description, checked: what it mentions and is most likely not there is left out, or said with a doubt."""

import re
import threading
from dataclasses import dataclass, replace
from typing import Any

from fourfold.assistant.chat.look_again.claims import claims_of
from fourfold.assistant.checkpoints.card import MeasuredCard
from fourfold.assistant.grounding import parse
from fourfold.prompts.tasks import Task, instruction
from fourfold.serving.engine.requests import Request, completed
from fourfold.serving.looking.certainty import SURE, certainty
from fourfold.serving.looking.claim import Claim, Said, Source
from fourfold.serving.looking.eyes import Eyes
from fourfold.serving.looking.kinds import Kind
from fourfold.serving.looking.sentences import sentence, unsure

LEFT_OUT = 0.3
"""Presence below which something is left out of a description: docs/looking.md."""
DOUBTFUL = 0.3
"""Presence of anything that cannot be left out below which a description begins with "Not sure"."""
_GROUPS = "in|with|wearing|holding|carrying|on|at|near|by|beside|behind|under|next to|in front of|and"


@dataclass(frozen=True)
class Mention:
    """Something that a description mentions.

    Attributes:
        phrase: in its words.
        presence: chance that it is there; None where the read-outs do not know it.
        source: who says so.
    """

    phrase: str
    presence: float | None
    source: Source


def caption(eyes: Eyes, request: Request, card: MeasuredCard, cancel: threading.Event | None) -> Said:
    """The model's description of the picture, without boxes and without what is most likely not there."""
    asked = _asked_for_a_caption(request)
    asked = replace(asked, sampling=replace(asked.sampling, logprobs=0))
    completion = completed(eyes.engine.stream(asked, cancel))
    said = checked(parse(completion.text).plain.strip(), eyes)
    sure = certainty(card, Kind.CAPTION, completion)
    return said if sure >= SURE else replace(said, text=unsure(said.text))


def checked(text: str, eyes: Eyes) -> Said:
    """A description after looking at what it mentions."""
    seen = mentions(text, eyes)
    for one in seen:
        if one.presence is not None and one.presence < LEFT_OUT:
            text = without(text, one.phrase)
    left = [one for one in seen if one.phrase in text]
    doubtful = any(one.presence is not None and one.presence < DOUBTFUL for one in left)
    claims = tuple(Claim(one.phrase, None, one.presence, one.source) for one in left)
    return Said(unsure(text) if doubtful else sentence(text), claims)


def without(text: str, phrase: str) -> str:
    """`A man in a hat is riding.`, "a hat" → `A man is riding.`; the same text where the phrase cannot go alone."""
    what = re.escape(phrase)
    for form, kept in (
        # "wearing a hat and holding a ball", "in a hat and a shirt": the next one takes its place
        (rf"\b(?:{_GROUPS}) {what} and (?=\w+ing\b)", ""),
        (rf"\b({_GROUPS}) {what} and (?=(?:an? )?\w)", r"\1 "),
        (rf",? (?:{_GROUPS}) {what}(?=[\s,.]|$)", ""),
    ):
        shorter, times = re.subn(form, kept, text, count=1)
        if times:
            return shorter
    return text


def mentions(text: str, eyes: Eyes) -> list[Mention]:
    """What a description mentions, each thing once. Of what the read-outs doubt the model is asked, too."""
    found = []
    for claim in claims_of("", text):
        finding = eyes.find(claim.thing)
        if finding is None:
            found.append(Mention(claim.phrase, None, "model"))
            continue
        presence, source = finding.presence, finding.source
        if presence < 0.5:
            presence, source = eyes.presence(finding, finding.noun)
        found.append(Mention(claim.phrase, presence, source))  # type: ignore[arg-type]
    return found


def _asked_for_a_caption(request: Request) -> Request:
    """The request in the words that the model was taught descriptions with, whatever a person wrote."""
    *before, last = request.messages
    content = last["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    if any(part.get("type") == "text" and part["text"].lstrip().startswith(Task.CAPTION.tag) for part in parts):
        return request
    asked: list[dict[str, Any]] = [part for part in parts if part.get("type") != "text"]
    asked.append({"type": "text", "text": instruction(Task.CAPTION)})
    return replace(request, messages=[*before, {**last, "content": asked}])
