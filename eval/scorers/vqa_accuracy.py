"""VQA accuracy: how well one answer agrees with ten annotators, under five named rules.

All rules but one are leave-one-out: for each annotator, min(agreements among the other nine / 3, 1), averaged over the
ten, which gives 0, .3, .6, .9, 1 for 0, 1, 2, 3, 4 or more agreements. Others are left out by index, never by
comparing records: answers without an id of their own would otherwise collapse.
"""

from collections.abc import Callable, Sequence

from fourfold.eval.scorers import normalise


def leave_one_out(agrees: Sequence[bool]) -> float:
    """Accuracy 0..1 from which annotators an answer agrees with (Antol et al. 2015, over all sets of nine)."""
    if not agrees:
        raise ValueError("an answer needs at least one annotator to be compared with")
    agreeing = sum(agrees)
    return sum(min((agreeing - agreed) / 3, 1.0) for agreed in agrees) / len(agrees)


def vqa_2021(answer: str, references: Sequence[str]) -> float:
    """The official script since 2021: both sides normalised, but nothing, not even case, where all references agree."""
    answer = normalise.tidy_space(answer)
    references = [normalise.tidy_space(reference) for reference in references]
    if len(set(references)) > 1:
        answer = normalise.vqa(answer)
        references = [normalise.vqa(reference) for reference in references]
    return leave_one_out([reference == answer for reference in references])


def vqa_pre2021(answer: str, references: Sequence[str]) -> float:
    """The official script before 2021 (in LAVIS still): the answer normalised, references only de-punctuated."""
    answer = normalise.vqa(answer)
    if len(set(references)) > 1:
        references = [normalise.strip_punctuation(reference) for reference in references]
    return leave_one_out([reference == answer for reference in references])


def vqa_minigpt4(answer: str, references: Sequence[str]) -> float:
    """MiniGPT-v2 on OK-VQA: the answer lower-cased and freed of `<unk>`, then the rule of before 2021."""
    return vqa_pre2021(normalise.minigpt4(answer), references)


def evalai_m4c(answer: str, references: Sequence[str]) -> float:
    """EvalAI's TextVQA rule (M4C, lmms-eval, VLMEvalKit): both sides through `normalise.m4c`, always."""
    answer = normalise.m4c(answer)
    return leave_one_out([normalise.m4c(reference) == answer for reference in references])


def vizwiz(answer: str, references: Sequence[str]) -> float:
    """The official VizWiz rule: the answer normalised, references as they are."""
    answer = normalise.vqa(answer)
    return leave_one_out([reference == answer for reference in references])


def vizwiz_minigpt4(answer: str, references: Sequence[str]) -> float:
    """MiniGPT-v2 on VizWiz: min(agreements / 3, 1) by exact lower-case match, no leave-one-out."""
    answer = normalise.minigpt4(answer)
    return min(sum(reference.lower() == answer for reference in references) / 3, 1.0)


VQA_RULES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "vqa_2021": vqa_2021,
    "vqa_pre2021": vqa_pre2021,
    "evalai_m4c": evalai_m4c,
    "vizwiz": vizwiz,
    "minigpt4": vqa_minigpt4,
}
"""Rules by the name that a result carries. VizWiz has a `minigpt4` of its own, `vizwiz_minigpt4`."""
