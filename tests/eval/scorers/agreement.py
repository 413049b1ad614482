"""Rules beside independent implementations: functions taken alone out of pinned wheels, on drawn and mean strings.

`python -m tests.eval.scorers.agreement 100000` prints how often each agrees.
"""

import ast
import random
import re
import string
import sys
import types
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd

from fourfold.eval.scorers.choice import READERS
from fourfold.eval.scorers.mmmu_open import mmmu_open
from fourfold.eval.scorers.short_answer import anls, relaxed_match
from fourfold.eval.scorers.yes_no import mme_verdict, only_verdict
from tests.eval.conftest import ORACLES

LMMS, VLMEVAL = "lmms_eval-0.7.3-py3-none-any.whl", "ms_vlmeval-0.0.20-py3-none-any.whl"
_TASKS, _UTILS = "lmms_eval/tasks", "vlmeval/dataset/utils"

OPTIONS = {"A": "a red apple", "B": "the big dog", "C": "17", "D": "None of the above"}
_TEXT = """
A B C D E Z a b c (A) (B) (C). (D), A. B. C: D) :A A, **B** #C {D} answer is the The correct best option choice is: I
choose pick so therefore final result could be yes no Yes. No, yes! no? not none y n YES NO yesterday nothing 3 3. 3.0
3.14 -2 1,234 1,234.5 1e3 1e-3 .5 50% 52% 0 0% 0.0 inf nan 17 seventeen apple red dog Ä İ ß 选B 答案是C 정답은D . ; ' "
? ! = | / - _ <unk>
"""
_WORDS = [
    *_TEXT.split(),
    *OPTIONS.values(), "the answer is", "The correct answer is B.", "Cannot determine the answer", "answer: ", "\n",
    "Failed to obtain answer via API", "I can't process this file.", "\t", "A dog sat on A mat", "Answer: (C)",
]  # fmt: skip
_MEAN = ["", " ", ".", "A", "a", "(A)", "AB", "A B", "A. B", "ABCD", "(A) or (B)", "B.", " B.", "B .", "yes no", "ye s"]


def strings(count: int, seed: int = 0) -> list[str]:
    """What models write and worse: words that rules look for in every order and with every punctuation around."""
    rng = random.Random(seed)
    drawn = list(_MEAN)
    while len(drawn) < count:
        words = rng.choices(_WORDS, k=rng.choice((1, 1, 2, 3, 5, 8, 13)))
        text = rng.choice(("", " ", " ", " ", ", ", "\n")).join(words)
        drawn.append(rng.choice((str, str, str, str.upper, str.lower, str.strip))(text))
    return drawn[:count]


def oracle(wheel: str, member: str, *names: str, **known: Any) -> Any:
    """Functions, classes and constants of one file of a wheel, run without the rest of it; the last one named."""
    if not (ORACLES / wheel).is_file():
        import pytest

        pytest.skip(f"no {wheel} in {ORACLES} (make test downloads it; or set FOURFOLD_ORACLES)")
    with zipfile.ZipFile(ORACLES / wheel) as archive:
        tree = ast.parse(archive.read(member))

    def called(node: ast.stmt) -> bool:
        targets = [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
        return bool({getattr(node, "name", None), *targets} & set(names))

    chosen = [node for node in tree.body if called(node)]
    for node in chosen:
        node.decorator_list = []  # type: ignore[attr-defined]  # registries of the package
    space: dict[str, Any] = {
        "re": re, "np": np, "pd": pd, "string": string, "random": random, "Counter": Counter, "os": __import__("os"),
        "defaultdict": defaultdict, "Optional": None, "List": list, "cp": __import__("copy"), "rd": random,
        "eval_logger": mock.Mock(), "logger": mock.Mock(), "d2df": lambda found: found, **known,
    }  # fmt: skip
    exec(compile(ast.Module(chosen, []), member, "exec"), space)
    return space[names[-1]]


class _Undecided(Exception):
    """Raised where an oracle would draw an answer at random."""


def _no_draw(*_: Any) -> Any:
    raise _Undecided


def _or_none(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except _Undecided:
        return None


Pairs = tuple[Callable[[str], Any], Callable[[str], Any]]


def _mcq() -> Pairs:
    extract = _mcq_oracle()
    return (lambda text: READERS["lmms_eval"](text, OPTIONS) or "", lambda text: extract(text, list(OPTIONS)))


def _mmbench() -> Pairs:
    evaluator = oracle(LMMS, f"{_TASKS}/mmbench/mmbench_evals.py", "MMBench_Evaluator")()
    module = types.ModuleType("lmms_eval.tasks._task_utils.mcq_extract")
    module.extract_mcq_answer = _mcq_oracle()  # type: ignore[attr-defined]

    def theirs(text: str, right: str) -> bool:
        rows = pd.DataFrame([{"index": 1, **OPTIONS, "prediction": text}])
        with mock.patch.dict(sys.modules, {module.__name__: module}):
            return bool(evaluator.eval_sub_data(rows, {1: right}, static_only=True))

    return (
        lambda text: [READERS["mmbench_static"](text, OPTIONS) == letter for letter in OPTIONS],
        lambda text: [theirs(text, letter) for letter in OPTIONS],
    )


def _mcq_oracle() -> Any:
    return oracle(
        LMMS, f"{_TASKS}/_task_utils/mcq_extract.py",
        "_DEFAULT_CHOICES", "_ANSWER_PHRASES", "_FORMAT_PRIORITY", "extract_mcq_answer", Optional={list[str]: None},
    )  # fmt: skip


def _mmmu() -> Pairs:
    parse = oracle(
        LMMS, f"{_TASKS}/_task_utils/mmmu_mcq_utils.py", "parse_mmmu_multi_choice_response",
        random=types.SimpleNamespace(choice=_no_draw),
    )  # fmt: skip
    return (
        lambda text: READERS["mmmu"](text, OPTIONS),
        lambda text: _or_none(parse, text, list(OPTIONS), OPTIONS),
    )


_OPEN = ["17", "a", "1,234", "3.14", "Red Apple", "0", "x = 3", "50%", "-2"]


def _mmmu_open() -> Pairs:
    names = ("extract_numbers", "check_is_number", "normalize_str", "parse_open_response", "eval_open")
    member = f"{_TASKS}/mmmu/utils.py"
    parse, judge = oracle(LMMS, member, *names[:4]), oracle(LMMS, member, *names)
    return (
        lambda text: [mmmu_open(text, [one]) for one in _OPEN] + [mmmu_open(text, _OPEN)],
        lambda text: [judge(one, parse(text)) for one in _OPEN] + [judge(_OPEN, parse(text))],
    )


def _scienceqa() -> Pairs:
    judge = oracle(LMMS, f"{_TASKS}/scienceqa/utils.py", "sqa_doc_to_target", "sqa_process_results")
    choices = list(OPTIONS.values())
    return (
        lambda text: [READERS["llava"](text, OPTIONS) == letter for letter in OPTIONS],
        lambda text: [judge({"choices": choices, "answer": n}, [text])["exact_match"] == 1 for n in range(4)],
    )


def _ai2d() -> Pairs:
    kind = oracle(LMMS, f"{_TASKS}/ai2d/utils.py", "MultiChoiceRegexFilter", ExtendedRegexFilter=object)
    match = oracle(LMMS, "lmms_eval/api/metrics.py", "exact_match_hf_evaluate")
    apply = kind.__new__(kind).apply

    def theirs(text: str, letter: str) -> bool:
        said = apply([[text]], [{}])[0]
        found = match([said], [letter], ignore_case=True, ignore_punctuation=True)
        return bool(found["exact_match"])

    return (
        lambda text: [READERS["ai2d"](text, OPTIONS) == letter for letter in OPTIONS],
        lambda text: [theirs(text, letter) for letter in OPTIONS],
    )


def _seed_bench() -> Pairs:
    read = oracle(LMMS, f"{_TASKS}/seedbench/utils.py", "seed_process_result")
    count = oracle(LMMS, f"{_TASKS}/seedbench/utils.py", "seed_aggregation_result")
    return (
        lambda text: [READERS["seed_bench"](text, OPTIONS) == letter for letter in OPTIONS],
        lambda text: [
            count([read({"answer": letter, "data_type": "x", "question_id": 1}, [text])["seed_all"]]) == 1
            for letter in OPTIONS
        ],
    )


def _mme() -> Pairs:
    read = oracle(LMMS, f"{_TASKS}/mme/utils.py", "parse_pred_ans")
    return (lambda text: {True: "yes", False: "no", None: "other"}[mme_verdict(text)], read)


def _chartqa() -> Pairs:
    judge = oracle(LMMS, f"{_TASKS}/chartqa/utils.py", "relaxed_correctness")
    return (lambda text: [relaxed_match(text, one) for one in _OPEN], lambda text: [judge(text, one) for one in _OPEN])


def _chartqa_vlmevalkit() -> Pairs:
    judge = oracle(VLMEVAL, f"{_UTILS}/vqa_eval.py", "relaxed_correctness", Optional={float: None})
    return (
        lambda text: [relaxed_match(text.strip(), one) for one in _OPEN],
        lambda text: [judge(one, text.strip()) for one in _OPEN],
    )


def _docvqa() -> Pairs:
    judge = oracle(LMMS, "lmms_eval/api/metrics.py", "levenshtein_distance", "anls")
    return (lambda text: anls(text, _OPEN), lambda text: judge(_OPEN, [text])["anls"])


def _docvqa_vlmevalkit() -> Pairs:
    part = oracle(VLMEVAL, f"{_UTILS}/vqa_eval.py", "levenshtein_distance", "anls_compute")

    def theirs(text: str) -> float:
        best = 1 - min(part(one, text) for one in _OPEN)
        return 0.0 if best < 0.5 else best

    return (lambda text: anls(text, _OPEN), theirs)


def _vlmevalkit() -> Pairs:
    names = ("can_infer_option", "can_infer_text", "can_infer")
    infer = oracle(VLMEVAL, "vlmeval/utils/matching_util.py", *names)
    return (
        lambda text: READERS["vlmevalkit"](text, OPTIONS),
        lambda text: {False: None, "Z": None}.get(found := infer(text, dict(OPTIONS)), found),
    )


def _yes_no_vlmevalkit() -> Pairs:
    strip = oracle(VLMEVAL, "vlmeval/smp/misc.py", "process_punctuation")
    read = oracle(VLMEVAL, f"{_UTILS}/yorn.py", "YOrN_Extraction", process_punctuation=strip)
    return (lambda text: {True: "Yes", False: "No", None: "Unknown"}[only_verdict(text)], read)


RULES: dict[str, tuple[str, Callable[[], Pairs]]] = {
    "mmbench circular, mmstar, mmmu, scienceqa, ai2d, seedbench, realworldqa: vlmevalkit": ("VLMEvalKit", _vlmevalkit),
    "mmstar, realworldqa: lmms_eval": ("lmms-eval", _mcq),
    "mmbench: lmms_eval": ("lmms-eval", _mmbench),
    "mmmu: official, options": ("lmms-eval", _mmmu),
    "mmmu: official, open questions": ("lmms-eval", _mmmu_open),
    "scienceqa: official": ("lmms-eval", _scienceqa),
    "ai2d: lmms_eval": ("lmms-eval", _ai2d),
    "seedbench: lmms_eval": ("lmms-eval", _seed_bench),
    "mme: official": ("lmms-eval", _mme),
    "mme, hallusionbench: vlmevalkit": ("VLMEvalKit", _yes_no_vlmevalkit),
    "chartqa: relaxed": ("lmms-eval", _chartqa),
    "chartqa: vlmevalkit": ("VLMEvalKit", _chartqa_vlmevalkit),
    "docvqa: anls": ("lmms-eval", _docvqa),
    "docvqa: anls, beside VLMEvalKit": ("VLMEvalKit", _docvqa_vlmevalkit),
}


def disagreements(rule: str, texts: Sequence[str]) -> list[tuple[str, Any, Any]]:
    """The texts about which a rule and its oracle differ, with what each makes of them."""
    ours, theirs = RULES[rule][1]()
    return [(text, mine, other) for text in texts if (mine := ours(text)) != (other := theirs(text))]


def main() -> None:
    """One line a rule: its oracle, and how many strings they agree about."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    texts = strings(count)
    for rule, (whose, _) in RULES.items():
        differ = disagreements(rule, texts)
        print(f"| {rule} | {whose} | {count - len(differ)} of {count} |")
        for text, mine, other in differ[:5]:
            print("   ", repr(text), mine, other, file=sys.stderr)


if __name__ == "__main__":
    main()
