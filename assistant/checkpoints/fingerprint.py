"""Which checkpoint something belongs to."""

import hashlib
from pathlib import Path


def model_fingerprint(directory: Path) -> str:
    """Hash of what a checkpoint's answers depend on: configurations, tokenizer, templates, weights; sixteen hex digits.

    `bridge.json` tells where the weights come from and is left out: the same model with a longer story is the same
    model.
    """
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.name != "bridge.json" and path.suffix in (".safetensors", ".json", ".jinja", ".bin", ".model"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
