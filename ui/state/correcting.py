"""A correction as it works at once: kept in the store, and standing in place of the answer."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage

from fourfold.assistant.chat.message_tree import path_of
from fourfold.assistant.refine.record import Correction
from fourfold.assistant.refine.targets import corrected_answer
from fourfold.ui.state.boxes import BoxAnnotation
from fourfold.ui.state.corrections import record, said
from fourfold.ui.state.session import Session
from fourfold.ui.state.turns import Turn


def correct(
    found: Session,
    turns: Sequence[Turn],
    turn: Turn,
    *,
    words: str | None,
    marks: Sequence[BoxAnnotation] | None,
    remember: bool,
    consent: bool,
) -> Correction:
    """Keep a correction, in place of earlier ones of the same answer, and have it stand in place of the answer.

    What the model said stays as the version before it. Takes what `record` does; gives the record as stored.

    Raises:
        UserError: it cannot be kept.
    """
    assert found.conversation is not None and turn.picture is not None
    made = record(turns, turn, verdict="down", consent=consent, remember=remember, words=words, marks=marks)
    # Two of them, where a process was killed between the next two steps.
    earlier = [c.id for c in found.store.list() if (c.image, c.question, c.rejected) == said(turn)]
    kept = found.store.add(made, turn.picture)
    for id in earlier:
        found.forget(id)
    if (right := corrected_answer(kept)) is not None and (words is not None or marks is not None):
        # Forgetting the earlier one may have brought the model's own answer back.
        stored = path_of(found.history.versions(found.conversation))[turn.position + 1]
        figures: dict[str, Any] = {
            name: turn.figures[name] for name in ("model", "adapts", "parameters") if name in turn.figures
        }
        figures |= {"corrected": kept.id, "original": turn.rejected}
        answer = AIMessage(right, response_metadata={"fourfold": figures})
        found.history.supersede(found.conversation, stored.number, answer)
    return kept
