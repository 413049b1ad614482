"""Reading yes or no out of an answer, and the figures made from it: accuracy, precision, recall, F1, yes-ratio."""

import re
from collections.abc import Hashable, Sequence

from fourfold.eval.scorers import normalise
from fourfold.eval.scorers.precision_recall import precision_recall
from fourfold.eval.statistics import Estimate, clustered_mean

_WORD = re.compile(r"[a-z']+")


def first_verdict(answer: str, yes: str = "yes", no: str = "no") -> bool | None:
    """The first of the two words that occurs as a whole word, in any case; None where neither does."""
    for word in _WORD.findall(answer.lower()):
        if word in (yes, no):
            return word == yes
    return None


def pope_verdict(answer: str) -> bool:
    """POPE's own reading: "No", "no" or "not" as a word of the first sentence means no, anything else yes."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not any(word in ("No", "no", "not") for word in words)


def mme_verdict(answer: str) -> bool | None:
    """MME's own reading: yes, else no, among the first four characters, or y or n alone."""
    said = answer.lower().strip().replace(".", "")
    if len(said) == 1:
        return {"y": True, "n": False}.get(said)
    if "yes" in said[:4]:
        return True
    return False if "no" in said[:4] else None


def only_verdict(answer: str) -> bool | None:
    """VLMEvalKit's reading without a judge: the one of the two words that occurs; None where both or neither do."""
    words = normalise.strip_punctuation(answer.lower()).split()
    return None if ("yes" in words) == ("no" in words) else "yes" in words


def yes_no_figures(
    truths: Sequence[bool], verdicts: Sequence[bool | None], clusters: Sequence[Hashable]
) -> dict[str, Estimate]:
    """Accuracy, precision, recall, F1 and yes-ratio in percent; positive means yes.

    A verdict of None is wrong: a missed yes where the truth is yes, and neither a false alarm nor a right no where it
    is no. Accuracy and yes-ratio have clustered errors, the others bootstrap intervals.
    """
    accuracy = clustered_mean([float(v is t) for t, v in zip(truths, verdicts, strict=True)], clusters)
    said_yes = [float(v is True) for v in verdicts]
    hits = [float(t and v is True) for t, v in zip(truths, verdicts, strict=True)]
    actual = [float(t) for t in truths]
    found = precision_recall([hits, said_yes, hits, actual], clusters)
    return {
        "accuracy": accuracy,
        "precision": found["precision"],
        "recall": found["recall"],
        "f1": found["f1"],
        "yes_ratio": clustered_mean(said_yes, clusters),
    }
