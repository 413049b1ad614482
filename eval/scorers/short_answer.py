"""Short answers with a tolerance: relaxed accuracy (ChartQA) and ANLS (DocVQA)."""

from collections.abc import Sequence


def relaxed_match(answer: str, reference: str, tolerance: float = 0.05) -> bool:
    """ChartQA's relaxed accuracy (Masry et al. 2022): numbers within 5 % of the reference, words alike but for case.

    A final percent sign divides by a hundred. Against a reference of 0, only the same words count.
    """
    said, wanted = _number(answer), _number(reference)
    if said is not None and wanted:
        return abs(said - wanted) / abs(wanted) <= tolerance
    return answer.lower() == reference.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def anls(answer: str, references: Sequence[str], threshold: float = 0.5) -> float:
    """DocVQA's average normalised Levenshtein similarity of one answer, 0..1 (Biten et al. 2019), the best reference's.

    Distances are between the lower-case texts with single spaces; as in the official script they are divided by the
    longer of the two as they came in. Below the threshold an answer counts nothing.
    """
    best = 0.0
    said = " ".join(answer.lower().split())
    for reference in references:
        wanted = " ".join(reference.lower().split())
        longest = max(len(reference.upper()), len(answer.upper()))
        best = max(best, 1 - edit_distance(wanted, said) / longest if longest else 1.0)
    return best if best >= threshold else 0.0


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's distance: insertions, deletions and exchanges of a character."""
    if first == second:
        return 0
    if len(first) > len(second):
        first, second = second, first
    row = list(range(len(first) + 1))
    for number, there in enumerate(second, start=1):
        diagonal, row[0] = row[0], number
        for place, here in enumerate(first, start=1):
            diagonal, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, diagonal + (here != there)),
            )
    return row[-1]
