"""The card as Markdown."""

from typing import Any

from fourfold.eval.report.decisions import decisions_markdown
from fourfold.eval.report.render import figure, markdown_table

_TITLES = {"photos": "Held-out photos", "scenes": "Rendered scenes"}
_COLUMNS = {"image": "with the image", "wrong-image": "wrong image", "blind": "no image"}


def card_markdown(card: dict[str, Any]) -> str:
    """A section a source, a row a figure, a column a control; intervals are 95 %, clustered by image."""
    fingerprint = f" (fingerprint `{card['fingerprint']}`)" if card["fingerprint"] else ""
    lines = [
        f"Model `{card['model']}`{fingerprint}, measured {card['date'][:10]}; "
        f"at most {card['limit'] or 'all'} items a kind, greedy decoding, seed {card['seed']}. "
        "Percent unless said otherwise; in brackets the 95 % interval, clustered by image.",
        *card["notes"],
    ]
    for source, kinds in card["sources"].items():
        asked = [control for control in _COLUMNS if control in next(iter(kinds.values()))]
        rows = [
            [kind if row == 0 else "", name, first["n"], *(_cell(controls[control].get(name)) for control in asked)]
            for kind, controls in kinds.items()
            for row, (name, first) in enumerate(controls[asked[0]].items())
        ]
        heads = ["task", "figure", "n", *(_COLUMNS[control] for control in asked)]
        lines += ["", f"### {_TITLES.get(source, source)}", "", *markdown_table(heads, rows)]
    if card["decisions"]:
        lines += ["", *decisions_markdown(card["decisions"])]
    return "\n".join(lines) + "\n"


def _cell(estimate: dict[str, Any] | None) -> str:
    coarse = estimate is None or abs(estimate["value"]) >= 10 or estimate["value"] == 0
    return figure(estimate, 1 if coarse else 2)
