"""JSON Lines of corrections, as `fourfold refine import` reads them, with the pictures that they name."""

import json
import shutil
from pathlib import Path
from typing import Any

from fourfold.assistant.refine.store import CorrectionStore
from fourfold.assistant.refine.transfer import import_corrections
from tests.assistant.pictures import encode, scene
from tests.fuzz.mutation import Mutator
from tests.fuzz.target import Target

_ASKED = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "[vqa] what is this?"}]}]
_LINES: tuple[dict[str, Any], ...] = (
    {"messages": _ASKED, "rejected": "a cat", "chosen": "a dog", "consent": True, "remember": False},
    {"messages": _ASKED, "rejected": "a cat", "verdict": "up", "consent": False, "created": 12.5, "id": "a-1"},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "red.png"}}]},
            {"role": "assistant", "content": "A picture."},
            {"role": "user", "content": "[refer] the dog"},
        ],
        "rejected": "{<1><2><3><4>}",
        "boxes": [{"phrase": "dog", "box": [0.1, 0.2, 0.3, 0.4]}],
        "consent": True,
        "model": "fourfold-mini",
        "adapter": "first",
        "parameters": {"temperature": 0.5, "seed": 3},
    },
)


def corrections(directory: Path) -> Target:
    """Each input is a file of lines; a store that it got into is made anew now and then."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "red.png").write_bytes(encode(scene()))
    (directory / "noise.png").write_bytes(b"\x89PNG\r\n\x1a\nnoise")
    path, place = directory / "corrections.jsonl", directory / "store"
    tried = 0

    def read(data: bytes) -> None:
        nonlocal tried
        if tried % 200 == 0:
            shutil.rmtree(place, ignore_errors=True)
        tried += 1
        path.write_bytes(data)
        store = CorrectionStore(place)
        before = store.count()
        found = import_corrections(store, path)
        assert store.count() == before + found.added
        for record in store.list():
            assert store.get(record.id) == record

    lines = [json.dumps({"image": "red.png", **line}).encode() for line in _LINES]
    return Target([*lines, b"\n".join(lines)], read, _mutate)


def _mutate(mutator: Mutator, data: bytes) -> bytes:
    lines = data.split(b"\n")
    at = mutator.random.randrange(len(lines))
    lines[at] = mutator.json(lines[at])
    return b"\n".join(lines)
