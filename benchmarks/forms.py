"""What an answer's form costs: tokens a second of plain answers, of JSON, of a pattern, of boxes, and with samplers.

    python -m benchmarks.forms [--rounds 5] [--tokens 64] [--model DIR]

All are made by one engine in turns, alone and eight at once. Grammars are compiled before the clock starts; what that
takes, with all that comes before a first answer, is said apart. "of plain" is the median of the rounds' quotients.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Figure, in_turns, ratio
from benchmarks.questions import picture, question
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.grounding.grammar import box_grammar
from fourfold.serving.engine.engine import Engine, Request, Sampling
from fourfold.serving.engine.requests import StructuredOutputs

_THING = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "colour": {"enum": ["red", "green"]}, "count": {"type": "integer"}},
    "required": ["name", "colour", "count"],
    "additionalProperties": False,
}
FORMS: dict[str, StructuredOutputs | None] = {
    "plain": None,
    "json": StructuredOutputs("json", json.dumps({"type": "array", "items": _THING, "minItems": 100})),
    "regex": StructuredOutputs("regex", r"([a-z]{1,12}[ .]){500}"),
    "box": StructuredOutputs("grammar", box_grammar()),
}
ROWS = (1, 8)


def forms(model: Path, rounds: int, tokens: int) -> dict[str, Figure]:
    """Tokens a second by form and rows, `json, 8 rows`; `compiled json` in seconds.

    Args:
        model: checkpoint directory.
        rounds: runs of each.
        tokens: of each answer.
    """
    with Engine.load(model) as engine:
        asked = [Request([question("tell me about it", picture())]) for _ in range(max(ROWS))]
        engine.generate(asked)  # the pictures are encoded
        contestants: dict[str, Callable[[], float]] = {}
        compiled = {}
        for name, form in FORMS.items():
            sampling = Sampling(max_tokens=tokens, min_tokens=tokens, structured_outputs=form)
            if form is not None:
                first = Request(asked[0].messages, Sampling(max_tokens=1, structured_outputs=form))
                compiled[f"compiled {name}"] = Figure("s", [engine.generate([first])[0].timings["preprocess"]])
            for rows in ROWS:
                contestants[f"{name}, {rows} rows"] = _rate(engine, asked[:rows], sampling)
        drawn = Sampling(max_tokens=tokens, min_tokens=tokens, temperature=0.7, top_k=40, presence_penalty=0.5)
        for rows in ROWS:
            contestants[f"samplers, {rows} rows"] = _rate(engine, asked[:rows], drawn)
        in_turns(contestants, 1, "tokens/s")  # what is done once, at first use
        return in_turns(contestants, rounds, "tokens/s") | compiled


def _rate(engine: Engine, asked: list[Request], sampling: Sampling) -> Callable[[], float]:
    requests = [Request(request.messages, sampling) for request in asked]

    def run() -> float:
        """Tokens a second behind the first of each answer."""
        completions = engine.generate(requests)
        took = max(completion.timings["decode"] for completion in completions)
        return sum(completion.completion_tokens - 1 for completion in completions) / took

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--model", default="fourfold-mini")
    arguments = parser.parse_args()
    figures = forms(resolve_model(arguments.model), arguments.rounds, arguments.tokens)
    for name, figure in figures.items():
        plain = figures.get(f"plain, {name.partition(', ')[2]}")
        quotient = ratio(figure, plain)
        print(f"{name:20} {figure.value:8.3g} {figure.unit}" + (f"  {quotient:.3f} of plain" if quotient else ""))


if __name__ == "__main__":
    main()
