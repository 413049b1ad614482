"""The first ten minutes: curious questions about photos, and what became of each answer.

    python -m benchmarks.first_minutes [--no-detector] [--set a] [--out answers.json]

Two sets of 54 questions (`first_minutes.json`) about photos of the shared data (`FOURFOLD_DATA`) that taught nothing:
yes or no, what, colours, numbers, places, text, descriptions, two pictures, other languages, talk, nonsense. The
answers are the loop's, as the page, the terminal and `fourfold serve` give them. Right or wrong is decided by rule, see
`verdict`; read the answers all the same.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourfold.assistant.chat.look_again import claims_of
from fourfold.assistant.english import head_noun, singular
from fourfold.assistant.grounding import Box, parse
from fourfold.assistant.images import load_image_file
from fourfold.assistant.training.data.sample import photos_directory
from fourfold.serving.looking.sentences import UNSURE

QUESTIONS = Path(__file__).with_name("first_minutes.json")
VERDICTS = ("right", "right, unsure", "unsure", "declined", "wrong")
_DECLINED = re.compile(
    r"\bi (?:cannot|can only|only|see no|did not understand)\b|\bsmall model\b|one picture at a time", re.IGNORECASE
)


def verdict(question: Mapping[str, Any], answer: str) -> str:
    """One of `VERDICTS`: "unsure" is wrong and marked, "wrong" is wrong and not marked.

    Args:
        question: with what is right: `words`, one of which the answer has to hold; `boxes`, each of which one of the
            answer's has to meet by IoU 0.5 and the other way round; `things`, of which a description may name nothing
            else; `absent`, where only a denial is right; `talk`, the word that knowledge would give, or "greeting".
        answer: as it was given.
    """
    unsure = bool(UNSURE.match(answer))
    if is_right(question, answer):
        return "right, unsure" if unsure else "right"
    if unsure:
        return "unsure"
    return "declined" if _DECLINED.search(answer) and not parse(answer).boxes else "wrong"


def is_right(question: Mapping[str, Any], answer: str) -> bool:
    """Whether an answer is right, see `verdict`."""
    grounded = parse(answer)
    text = grounded.plain.lower()
    if "one picture at a time" in text:  # and names their numbers
        return False
    if "boxes" in question:
        true = [Box(*box) for box in question["boxes"]]
        return bool(grounded.boxes) and all(
            any(box.iou(other) >= 0.5 for other in others)
            for boxes, others in ((true, grounded.boxes), (grounded.boxes, true))
            for box in boxes
        )
    if question.get("absent"):
        return not grounded.boxes and bool(_DECLINED.search(text) or re.match(r"no\b", text))
    if "talk" in question:
        if question["talk"] == "greeting":
            return not grounded.boxes and ("small model" in text or "welcome" in text)
        return bool(re.search(rf"\b{re.escape(question['talk'])}\b", text))
    if "things" in question:
        nouns = {noun for claim in claims_of("", answer) if (noun := head_noun(claim.phrase))}
        return bool(nouns) and all({noun, singular(noun)} & set(question["things"]) for noun in nouns)
    return any(re.search(rf"\b{re.escape(word)}\b", text) for word in question["words"])


def ask(questions: Sequence[Mapping[str, Any]], *, detector: bool) -> list[str]:
    """The answers of the default model's loop."""
    from fourfold.assistant.checkpoints.resolve import resolve_model
    from fourfold.serving.engine.engine import Engine
    from fourfold.serving.engine.requests import Request, Sampling
    from fourfold.serving.looking import Looking

    directory = resolve_model(None)
    with Engine.load(directory, max_num_seqs=1) as engine:
        looking = Looking.load(engine, directory)
        assert looking is not None  # the default model has read-outs
        if not detector:
            looking.detector = None
        return [looking.answer(Request(_messages(one), Sampling(max_tokens=120)))[0].text for one in questions]


def _messages(question: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Talk beside a picture comes behind a first question about it."""
    folder = photos_directory()
    pictures = []
    for name in question["photos"]:
        source, _, photo = name.partition("/")
        pictures.append({"type": "image", "image": load_image_file(folder / source / "images" / f"{photo}.webp")})
    words = {"type": "text", "text": question["question"]}
    if "talk" in question and pictures:
        first = [*pictures, {"type": "text", "text": "What is this?"}]
        return [
            {"role": "user", "content": first},
            {"role": "assistant", "content": "A picture."},
            {"role": "user", "content": [words]},
        ]
    return [{"role": "user", "content": [*pictures, words]}]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--set", choices=("a", "b"), help="one of the two sets; by default both")
    parser.add_argument("--no-detector", action="store_true", help="as without the extra `tools`")
    parser.add_argument("--out", type=Path, help="write questions, answers and verdicts there as JSON")
    chosen = parser.parse_args()
    questions = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    questions = [one for one in questions if chosen.set in (None, one["id"][0])]
    answers = ask(questions, detector=not chosen.no_detector)
    told = [
        {**one, "answer": said, "verdict": verdict(one, said)} for one, said in zip(questions, answers, strict=True)
    ]
    for one in told:
        print(f"{one['id']}  {one['verdict']:13}  {one['question'][:44]:44}  {one['answer'][:100]}")
    for name in sorted({one["id"][0] for one in told}):
        counts = Counter(one["verdict"] for one in told if one["id"][0] == name)
        print(f"set {name}: " + ", ".join(f"{kind} {counts[kind]}" for kind in VERDICTS))
    if chosen.out:
        chosen.out.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
