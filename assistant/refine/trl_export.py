"""Corrections as TRL's vision-language data sets: conversations with images for SFT, and preferences for DPO."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourfold.assistant.files import building
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.training.samples import TrainingTarget, training_set_of
from fourfold.prompts.errors import UserError

if TYPE_CHECKING:
    import pyarrow

Message = dict[str, Any]


def export_trl(store: CorrectionStore, directory: Path) -> tuple[int, int]:
    """Write `sft.parquet` and `dpo.parquet`, which `datasets.load_dataset` and TRL's trainers take as they are.

    SFT rows have `images` and `messages`; DPO rows `images`, `prompt`, `chosen` and `rejected`, all of them messages
    whose content is a list of parts. What is learnt here is exported: corrections with consent and a right answer that
    no other contradicts, and praised answers for SFT; DPO rows are those whose wrong answer is known.

    Args:
        store: of the corrections.
        directory: a new folder.

    Returns:
        How many rows each file has.

    Raises:
        UserError: there is nothing to export, or the folder is there or cannot be written.
    """
    if directory.exists():
        raise UserError(f"{directory} exists already; choose another place or remove it")
    taught = training_set_of(store.list(consented=True, excluded=False), annotated=False)
    targets = [target for target in (*taught.corrected, *taught.kept) if target.answer is not None]
    pairs = [target for target in taught.corrected if target.answer is not None and target.turns[0].rejected]
    if not targets:
        raise UserError(
            f"there is nothing to export: of {store.count()} records {store.count(consented=True)} have consent, "
            f"{len(taught.to_review)} of these are doubtful and {taught.verdicts} are only a verdict"
        )
    sft = [{"images": _images(store, one), "messages": [*_prompt(one), _answer(one.answer or "")]} for one in targets]
    dpo = [
        {
            "images": _images(store, one),
            "prompt": _prompt(one),
            "chosen": [_answer(one.answer or "")],
            "rejected": [_answer(one.turns[0].rejected or "")],
        }
        for one in pairs
    ]
    try:
        with building(directory) as part:
            _write(part / "sft.parquet", sft, ("messages",))
            _write(part / "dpo.parquet", dpo, ("prompt", "chosen", "rejected"))
    except OSError as error:
        raise UserError(f"{directory} cannot be written ({error.strerror})") from None
    return len(sft), len(dpo)


def _images(store: CorrectionStore, target: TrainingTarget) -> list[dict[str, Any]]:
    image = store.image(target.correction.image)
    return [{"bytes": image.content, "path": f"{target.correction.image}{image.suffix}"}]


def _prompt(target: TrainingTarget) -> list[Message]:
    messages: list[Message] = []
    for place, (question, answer) in enumerate([*target.history, (target.question, None)]):
        shown = [{"type": "image", "text": None}] if place == 0 else []
        messages.append({"role": "user", "content": [*shown, {"type": "text", "text": question}]})
        if answer is not None:
            messages.append(_answer(answer))
    return messages


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def _write(path: Path, rows: list[dict[str, Any]], conversations: tuple[str, ...]) -> None:
    import pyarrow
    import pyarrow.parquet

    messages = pyarrow.list_(_struct(role=pyarrow.string(), content=pyarrow.list_(_struct("type", "text"))))
    images = pyarrow.list_(_struct(bytes=pyarrow.binary(), path=pyarrow.string()))
    # What `datasets` writes beside its own files, so that it decodes the images.
    text = {"dtype": "string", "_type": "Value"}
    parts = {"_type": "List", "feature": {"type": text, "text": text}}
    features: dict[str, Any] = {"images": {"_type": "List", "feature": {"_type": "Image"}}}
    features |= {name: {"_type": "List", "feature": {"role": text, "content": parts}} for name in conversations}
    fields = [pyarrow.field("images", images), *(pyarrow.field(name, messages) for name in conversations)]
    told = json.dumps({"info": {"features": features}}).encode()
    schema = pyarrow.schema(fields, metadata={b"huggingface": told})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


def _struct(*texts: str, **fields: "pyarrow.DataType") -> "pyarrow.DataType":
    import pyarrow

    return pyarrow.struct([*((name, pyarrow.string()) for name in texts), *fields.items()])
