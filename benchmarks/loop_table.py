"""What `benchmarks.loop` measured, as Markdown."""

from collections.abc import Mapping
from typing import Any

_AGREES = {"True": "agree", "False": "contradict each other", "None": "cannot be compared"}


def table(measured: Mapping[str, Any]) -> str:
    """The content of `loop.json` as Markdown."""
    results = measured["results"]
    lines = [
        f"Model `{measured['model']}` (fingerprint `{measured['fingerprint']}`), measured {measured['date'][:10]}; "
        f"seed {measured['seed']}, {measured['workers']} items at the same time. Before and after are percent right; "
        "in brackets the 95 % interval of the difference, p by flipping the signs of whole images. Questions and "
        "seconds are an answer's: the mean, and the median.",
        "",
        "| loop | items | before | after | difference [95 %] | p | mended / broken | right ones broken | questions |"
        " s first / loop |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        d, broke = r["difference"], r["right_that_broke_percent"]
        interval = f" [{d['low']:+.1f}, {d['high']:+.1f}]" if d["low"] is not None else ""
        lines.append(
            f"| {r['loop']} | {r['items']} | {r['before']['value']:.1f} | {r['after']['value']:.1f} "
            f"| {d['value']:+.1f}{interval} | {r['p_value']:.3f} | {r['mended']} / {r['broken']} "
            f"| {'-' if broke is None else f'{broke:.1f} %'} | {r['calls']:.1f} "
            f"| {r['seconds_first']:.1f} / {r['seconds_loop']:.1f} |"
        )
    told = [tell(r) for name, tell in _TOLD.items() for r in results if name in r]
    return "\n".join([*lines, *([""] if told else []), *told]) + "\n"


def _verdicts(result: Mapping[str, Any]) -> str:
    cells = (
        f"{name} {v['n']} ({v['right_percent']:.1f} % of them right)" for name, v in sorted(result["verdicts"].items())
    )
    return f"- {result['loop']}, what was said: {', '.join(cells)}."


def _agreement(result: Mapping[str, Any]) -> str:
    cells = (
        f"{_AGREES[key]} {v['n']} ({v['right_percent']:.1f} % of the first answers right)"
        for key, v in sorted(result["agrees"].items(), reverse=True)
    )
    return f"- {result['loop']}, number, yes or no, and boxes: {', '.join(cells)}."


def _claims(result: Mapping[str, Any]) -> str:
    before, after = result["claims"]["before"], result["claims"]["after"]
    return (
        f"- {result['loop']}, claims a caption: {before['right']:.2f} right and {before['wrong']:.2f} wrong before, "
        f"{after['right']:.2f} right and {after['wrong']:.2f} wrong after."
    )


_TOLD = {"claims": _claims, "verdicts": _verdicts, "agrees": _agreement}
