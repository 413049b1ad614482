"""Which checkpoint something belongs to."""

import hashlib
import json
from pathlib import Path
from typing import Any

from fourfold.assistant.checkpoints.index import INDEX, WEIGHTS
from fourfold.assistant.checkpoints.mapped_weights import MappedWeights
from fourfold.prompts.errors import UserError

_BESIDE = frozenset({"bridge.json", "calibration.json", "card.json", "readouts.safetensors"})


def model_fingerprint(directory: Path) -> str:
    """Hash of what a checkpoint's answers depend on: configurations, tokenizer, templates, weights; sixteen hex digits.

    What tells of the model or was learnt beside it is left out: the same model with a longer story, calibrated, with
    read-outs or with the code that loads it elsewhere is the same model.
    """
    digest = hashlib.sha256()
    beside = _BESIDE | ({INDEX} if (directory / WEIGHTS).exists() else set())  # which only names the one file
    for path in sorted(directory.iterdir()):
        if path.name not in beside and path.suffix in (".safetensors", ".json", ".jinja", ".bin", ".model"):
            digest.update(path.name.encode())
            digest.update(_digest(path))
    return digest.hexdigest()[:16]


def _digest(path: Path) -> bytes:
    if path.suffix == ".json" and b'"auto_map"' in (content := path.read_bytes()):
        # As transformers writes the file of a checkpoint without code.
        plain = json.dumps(_without_code(json.loads(content)), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        return hashlib.sha256(plain.encode()).digest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _without_code(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    return {key: _without_code(value) for key, value in settings.items() if key != "auto_map"}


def tower_fingerprint(directory: Path) -> str:
    """Which image tower a checkpoint has; sixteen hex digits.

    The digest is of the tower's configuration and of the first row of each of its tensors, in float32: reading all of
    them takes a second at each start, and no other training leaves the first rows as they are.

    Raises:
        UserError: the directory has no weights of a tower.
    """
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))["vision_config"]
    sizes = {name: config.get(name) for name in ("hidden_size", "num_hidden_layers", "image_size", "patch_size")}
    digest = hashlib.blake2b(json.dumps(sizes, sort_keys=True).encode(), digest_size=8)
    rows: dict[str, bytes] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors = MappedWeights([path])
        for name in tensors:
            if "vision_tower." in name:
                rows[name.partition("vision_tower.")[2]] = tensors.first_row(name).tobytes()
    if not rows:
        raise UserError(f"{directory} holds no weights of an image tower")
    for name, content in sorted(rows.items()):
        digest.update(name.encode() + content)
    return digest.hexdigest()
