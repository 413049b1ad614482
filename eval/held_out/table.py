"""The card as a Markdown table."""

from typing import Any

_TITLES = {"photos": "Held-out photos", "scenes": "Rendered scenes"}
_COLUMNS = {"image": "with the image", "wrong-image": "wrong image", "blind": "no image"}


def card_markdown(card: dict[str, Any]) -> str:
    """A section a source, a row a figure, a column a control; intervals are 95 %, clustered by image."""
    lines = [
        f"Model `{card['model']}` (fingerprint `{card['fingerprint']}`), measured {card['date'][:10]}; "
        f"at most {card['limit'] or 'all'} items a kind, greedy decoding, seed {card['seed']}. "
        "Percent unless said otherwise; in brackets the 95 % interval, clustered by image.",
    ]
    for source, kinds in card["sources"].items():
        lines += ["", f"### {_TITLES.get(source, source)}", ""]
        asked = [control for control in _COLUMNS if control in next(iter(kinds.values()))]
        lines.append(f"| task | figure | n | {' | '.join(_COLUMNS[control] for control in asked)} |")
        lines.append("|---" * (3 + len(asked)) + "|")
        for kind, controls in kinds.items():
            for position, figure in enumerate(controls[asked[0]]):
                cells = [_cell(controls[control].get(figure)) for control in asked]
                n = controls[asked[0]][figure]["n"]
                lines.append(f"| {kind if position == 0 else ''} | {figure} | {n} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    digits = 1 if abs(figure["value"]) >= 10 or figure["value"] == 0 else 2
    text = f"{figure['value']:.{digits}f}"
    if figure["low"] is None:
        return text
    return f"{text} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"
