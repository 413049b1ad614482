"""The model card of a checkpoint that is pushed: what it is, on what it was trained, what was measured, its limits."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.assistant.checkpoints.card import read_card
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

_PARTS_OF_MINI = ["openai/clip-vit-base-patch16", "HuggingFaceTB/SmolLM2-135M-Instruct"]
_SOURCES: dict[str, str] = {"photos": "Held-out photos", "scenes": "Rendered scenes"}
_CONTROLS = {"image": "with its image", "wrong-image": "another image", "blind": "no image"}
_LIMITS = """\
A picture and a question go in, text comes out, and the text may be wrong: about what is there, where, and how many. Do
not decide anything about people by it. It was measured in English alone.
"""
_UNMEASURED = "Nothing was measured of this checkpoint that is recorded in it.\n"


def model_card(directory: Path, repository: str, *, license: str = "other") -> str:
    """The card of a checkpoint, Markdown with the Hub's metadata.

    A `README.md` of the checkpoint that has metadata already is somebody's own and stays as it is; another becomes part
    of the card. The training data and the figures are of `bridge.json`, what the model is good at of `card.json`.

    Args:
        directory: the checkpoint.
        repository: its name on the Hub, `org/name`.
        license: as the Hub calls it; "other" where parts have different ones, which the card then lists.

    Raises:
        UserError: a file of the checkpoint is damaged.
    """
    from huggingface_hub import ModelCardData

    own = directory / "README.md"
    written = own.read_text(encoding="utf-8") if own.is_file() else ""
    if written.startswith("---\n"):
        return written
    bridge = _bridge(directory)
    name = repository.rpartition("/")[2]
    try:
        results = list(_results(bridge))
        told = [_training(bridge), _figures(bridge)]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{directory / 'bridge.json'} is damaged ({error!r}); nothing can be said by it") from None
    data = ModelCardData(
        language="en",
        license=license,
        license_name="licences-of-its-parts" if license == "other" else None,
        license_link="README.md" if license == "other" else None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=_PARTS_OF_MINI if str(bridge.get("base", "")).startswith("fourfold-mini") else None,
        tags=["minigpt-v2", "vision-language", "visual-question-answering", "fourfold"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    body = written.strip() or f"# {name}\n\nA chat model that sees, in MiniGPT-v2's architecture."
    sections = [body, _use(directory, repository), *told, _limits(directory, bridge)]
    return _front_matter(data) + "\n\n".join(section.strip() for section in sections if section) + "\n"


def _bridge(directory: Path) -> dict[str, Any]:
    path = directory / "bridge.json"
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(told, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); nothing can be said of the model's training") from None
    return told


def _front_matter(data: "ModelCardData") -> str:
    return f"---\n{data.to_yaml()}\n---\n\n"


def _use(directory: Path, repository: str) -> str:
    alone = "auto_map" in (directory / "config.json").read_text(encoding="utf-8")
    text = f'## Use\n\n```console\n$ fourfold chat photo.jpg "what is this?" --model {repository}\n```\n'
    if not alone:
        return text
    return f"""{text}
Without fourfold, by transformers alone (the model's code is in this repository, hence `trust_remote_code`):

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("{repository}", trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained("{repository}", trust_remote_code=True)
asked = [{{"type": "image", "path": "photo.jpg"}}, {{"type": "text", "text": "[vqa] what is this?"}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": asked}}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
)
answer = model.generate(**inputs, max_new_tokens=40)
print(processor.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```
"""


def _training(bridge: Mapping[str, Any]) -> str:
    data = bridge.get("data")
    if not isinstance(data, Mapping):
        return ""
    lines = ["## Training data", "", str(data.get("note", ""))]
    if photos := data.get("photos"):
        rows = [f"| {name} | {share:g} |" for name, share in photos.items()]
        lines += ["", "| photos | share |", "|---|---:|", *rows]
    if scenes := data.get("scenes"):
        lines += ["", f"Rendered scenes: {scenes}."]
    if steps := bridge.get("steps"):
        lines += ["", f"{steps} steps, seed {bridge.get('seed')}; `bridge.json` has the whole recipe."]
    return "\n".join(lines)


def _figures(bridge: Mapping[str, Any]) -> str:
    held_out = bridge.get("held_out")
    if not isinstance(held_out, Mapping) or not held_out:
        return f"## Figures\n\n{_UNMEASURED}"
    lines = [
        "## Figures",
        "",
        "Held-out questions, each with its own image, with another image, and with none; percent unless said "
        "otherwise, with the 95 % interval. Where the columns are alike, the model does not look.",
    ]
    for source, measured in held_out.items():
        title = f"{_SOURCES.get(source, source)} ({measured['items_per_kind']} a row, {measured['date'][:10]})"
        lines += ["", f"### {title}", "", f"| | {' | '.join(_CONTROLS.values())} |", "|---|---:|---:|---:|"]
        for figure, controls in measured["figures"].items():
            cells = [_cell(controls.get(control)) for control in _CONTROLS]
            lines.append(f"| {figure} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(estimate: list[float | None] | None) -> str:
    """A figure, with its interval where it has one."""
    value, low, high = estimate or (None, None, None)
    if value is None:
        return ""
    digits = 2 if abs(value) < 10 else 1
    interval = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{interval}"


def _limits(directory: Path, bridge: Mapping[str, Any]) -> str:
    # Of a checkpoint that was made of another its card is of that one.
    measured = None if "merged" in bridge or "quantized" in bridge else read_card(directory)
    known = f"\n{measured.alone.line}\n" if measured is not None and measured.alone is not None else ""
    return f"## Limits\n\n{_LIMITS}{known}"


def _results(bridge: Mapping[str, Any]) -> Iterator["EvalResult"]:
    """The figures with the image, as the Hub's results."""
    from huggingface_hub import EvalResult

    held_out = bridge.get("held_out")
    for source, measured in held_out.items() if isinstance(held_out, Mapping) else ():
        for figure, controls in measured["figures"].items():
            kind, _, metric = figure.partition(": ")
            yield EvalResult(
                task_type="image-text-to-text",
                task_name=kind,
                dataset_type=f"fourfold-held-out-{source}",
                dataset_name=_SOURCES.get(source, str(source)),
                metric_type=metric.partition(" ")[0],
                metric_name=figure,
                metric_value=controls["image"][0],
            )
