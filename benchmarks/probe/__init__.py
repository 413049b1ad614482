"""Who answers what: the same checks by stock clients and attackers, of this server, `transformers serve` and vLLM."""

from collections.abc import Iterator, Mapping

from benchmarks.probe import chat, hostile, other_apis
from benchmarks.probe.asked import Asked, Check
from fourfold.eval.report.render import markdown_table

GROUPS: dict[str, dict[str, Check]] = {
    "OpenAI's chat completions": chat.CHECKS,
    "OpenAI's other routes": other_apis.OPENAI,
    "Anthropic's messages": other_apis.ANTHROPIC,
    "Other clients": other_apis.PROGRAMS,
    "Operators": other_apis.OPERATORS,
    "Attackers: refused, or harmless": hostile.CHECKS,
}
"""All checks, by whose documentation promises what is checked; the last are demands of plain safety."""


def probe(asked: Asked) -> dict[str, str]:
    """ "yes", or in a few words why not, for every check of `GROUPS`."""
    found = {}
    for checks in GROUPS.values():
        for name, check in checks.items():
            found[name] = _verdict(check, asked)
            if checks is hostile.CHECKS and not hostile.still_there(asked):
                found[name] = "no: the server is gone"
    return found


def _verdict(check: Check, asked: Asked) -> str:
    try:
        return "yes" if check(asked) else "no"
    except Exception as error:  # whatever a client makes of what it gets
        status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
        return f"no: {status}" if status else f"no: {type(error).__name__}"


TITLES = {"transformers serve": "`transformers serve`", "vllm": "vLLM behind our door", "vllm serve": "vLLM"}


def tables(found: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Markdown, line by line: how many checks of each group every server passes, then those that not all of them pass.

    Args:
        found: by server, as `probe` gives it.
    """
    servers = [TITLES.get(server, server) for server in found]
    counts = []
    for group, checks in GROUPS.items():
        passed = [sum(answers[name] == "yes" for name in checks) for answers in found.values()]
        counts.append([group, str(len(checks)), *map(str, passed)])
    totals = [str(sum(int(row[place]) for row in counts)) for place in range(1, 2 + len(found))]
    numbers = range(1, 2 + len(found))
    yield from markdown_table(["", "checks", *servers], [*counts, ["together", *totals]], numbers=numbers)
    by_all = []
    for group, checks in GROUPS.items():
        rows = [[name, *(answers[name] for answers in found.values())] for name in checks]
        by_all += [row[0] for row in rows if set(row[1:]) == {"yes"}]
        if told := [row for row in rows if set(row[1:]) != {"yes"}]:
            yield from ("", *markdown_table([group, *servers], told))
    yield from ("", f"Passed by all: {'; '.join(by_all) or 'none'}.")
