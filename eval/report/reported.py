"""Numbers that papers report, to stand beside measured ones. They are the authors', not measured here."""

SOURCE = "reported, first paper version"
"""MiniGPT-v2 (Chen et al. 2023), first version; a later version reports others (chat: GQA 60.1, VizWiz 53.6)."""

_COLUMNS = ("okvqa", "gqa", "vsr", "textvqa", "iconvqa", "vizwiz", "hatefulmemes")
_ROWS: dict[str, tuple[float | None, ...]] = {
    "Flamingo-9B": (44.7, None, 31.8, None, None, 28.8, 57.0),
    "BLIP-2 13B": (45.9, 41.0, 50.9, 42.5, 40.6, 19.6, 53.7),
    "InstructBLIP 13B": (None, 49.5, 52.1, 50.7, 44.8, 33.4, 57.5),
    "MiniGPT-4 13B": (37.5, 30.8, 41.6, 19.4, 37.6, None, None),
    "LLaVA 13B": (54.4, 41.3, 51.2, 38.9, 43.0, None, None),
    "Shikra 13B": (47.2, None, None, None, None, None, None),
    "MiniGPT-v2 7B": (56.9, 60.3, 60.6, 51.9, 47.7, 30.3, 58.2),
    "MiniGPT-v2-chat 7B": (55.9, 58.8, 63.3, 52.3, 49.4, 42.4, 59.5),
}
_REFCOCO = {"refcoco": 88.69, "refcoco+": 79.97, "refcocog": 84.44}  # val, acc@0.5

TRAINED_ON = frozenset({"okvqa", "gqa", "refcoco", "refcoco+", "refcocog"})
"""Benchmarks whose train splits are in MiniGPT-v2's training; the others are zero-shot there."""


def reported(benchmark: str) -> dict[str, float]:
    """Model -> reported percent for a benchmark; empty where the table has none."""
    if benchmark in _REFCOCO:
        return {"MiniGPT-v2 7B (val)": _REFCOCO[benchmark]}
    if benchmark not in _COLUMNS:
        return {}
    column = _COLUMNS.index(benchmark)
    return {name: value for name, row in _ROWS.items() if (value := row[column]) is not None}
