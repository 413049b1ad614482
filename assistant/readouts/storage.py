"""A library as one safetensors file: half precision, with what it says of itself as JSON in the header."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fourfold.assistant.checkpoints.bridge import BRIDGE
from fourfold.assistant.checkpoints.fingerprint import tower_fingerprint
from fourfold.assistant.files import replacing
from fourfold.assistant.readouts.box_head import BoxHead
from fourfold.assistant.readouts.calibration import BoxCalibration, PresenceCalibration
from fourfold.assistant.readouts.domain import Domain, Spread
from fourfold.assistant.readouts.library import CONCEPT, Readout, ReadoutLibrary
from fourfold.prompts.errors import UserError

READOUTS = "readouts.safetensors"
"""Name of the file in a checkpoint's directory."""
_FORMAT = 1
_SPREADS = ("patches", "pictures")


def save_library(library: ReadoutLibrary, path: Path) -> None:
    """Write a library, without what was shown: that belongs to the person who showed it.

    Raises:
        OSError: it cannot be written; nothing changed.
    """
    readouts = [readout for readout in library.readouts if readout.kind != CONCEPT]
    tensors: dict[str, np.ndarray] = {
        "weights": np.stack([r.weights for r in readouts]).astype(np.float16),
        "picture_weights": np.stack([r.picture_weights for r in readouts]).astype(np.float16),
        "scale": np.array([r.scale for r in readouts], np.float32),
        "priors": np.array([r.priors for r in readouts], np.float32),
        "boxes": np.array([r.boxes for r in readouts], np.int32),
        "offset": np.array([r.offset for r in readouts], np.float32),
    }
    for name, domain in library.domains.items():
        for of in _SPREADS:
            spread: Spread = getattr(domain, of)
            tensors[f"{name}.{of}.mean"] = spread.mean
            # A covariance is symmetric: what stands below its diagonal is all there is to keep.
            lower = spread.covariance[np.tril_indices(len(spread.mean))]
            tensors[f"{name}.{of}.covariance"] = lower.astype(np.float16)
    for name, weight in library.head.weights.items():
        tensors[f"head.{name}"] = weight.astype(np.float16)
    for kind, weights in library.presence_of.weights.items():
        tensors[f"presence.{kind}"] = weights.astype(np.float32)
    about = {
        "format": _FORMAT,
        "tower": library.tower,
        "readouts": [[r.name, r.kind, r.domain] for r in readouts],
        "domains": list(library.domains),
        "presence": list(library.presence_of.weights),
        "box_chance": asdict(library.box_chance),
        "synonyms": dict(library.synonyms),
        "provenance": dict(library.provenance),
    }
    with replacing(path) as part_path:
        save_file(tensors, part_path, metadata={"fourfold": json.dumps(about)})
    path.chmod(0o644)


def read_library(path: Path, tower: str | None = None) -> ReadoutLibrary:
    """Read a library.

    Args:
        path: the file.
        tower: fingerprint of the tower that it is to be used with; None to take any.

    Raises:
        UserError: there is no such file, it is damaged or none, or it was learnt from another tower.
    """
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {})["fourfold"])
            if about["format"] != _FORMAT:
                raise UserError(f"{path} is a library of read-outs of another version of fourfold; learn it again")
            if tower is not None and about["tower"] != tower:
                raise UserError(
                    f"the read-outs in {path} were learnt from another image tower ({about['tower']}, not {tower}); "
                    "learn them for this model by `fourfold readouts learn`"
                )
            return _library(about, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"there is no library of read-outs at {path}") from error
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        raise UserError(f"{path} is damaged, or is no library of read-outs ({error}); learn it again") from error


def _library(about: dict[str, Any], tensors: dict[str, np.ndarray]) -> ReadoutLibrary:
    domains = {name: Domain(name, *(_spread(tensors, f"{name}.{of}") for of in _SPREADS)) for name in about["domains"]}
    weights = tensors["weights"].astype(np.float32)
    picture_weights = tensors["picture_weights"].astype(np.float32)
    if not (np.isfinite(weights).all() and np.isfinite(picture_weights).all()):
        raise ValueError("some weights are no numbers")
    readouts = []
    for row, (name, kind, domain) in enumerate(about["readouts"]):
        of = domains[domain]
        area, spread, count = map(float, tensors["priors"][row])
        readouts.append(
            Readout(
                name=name,
                kind=kind,
                domain=domain,
                weights=weights[row],
                bias=-float(weights[row] @ of.patches.mean),
                scale=float(tensors["scale"][row]),
                picture_weights=picture_weights[row],
                picture_bias=-float(picture_weights[row] @ of.pictures.mean),
                priors=(area, spread, count),
                boxes=int(tensors["boxes"][row]),
                offset=float(tensors["offset"][row]),
            )
        )
    head = {
        name.removeprefix("head."): tensor.astype(np.float32)
        for name, tensor in tensors.items()
        if name.startswith("head.")
    }
    return ReadoutLibrary(
        tower=about["tower"],
        readouts=tuple(readouts),
        domains=domains,
        head=BoxHead(head),
        presence_of=PresenceCalibration({kind: tensors[f"presence.{kind}"] for kind in about["presence"]}),
        box_chance=BoxCalibration(**about["box_chance"]),
        synonyms=about["synonyms"],
        provenance=about["provenance"],
    )


def _spread(tensors: dict[str, np.ndarray], name: str) -> Spread:
    mean = tensors[f"{name}.mean"]
    covariance = np.zeros((len(mean), len(mean)), np.float32)
    covariance[np.tril_indices(len(mean))] = tensors[f"{name}.covariance"]
    return Spread(mean, covariance + np.tril(covariance, -1).T)


def load_readouts(checkpoint: Path) -> ReadoutLibrary | None:
    """The library for a checkpoint: its own, or the shipped one where its image tower is the default model's.

    Raises:
        UserError: the checkpoint's own library is damaged, or that of another tower.
    """
    own = checkpoint / READOUTS
    if own.is_file():
        return read_library(own, tower_fingerprint(checkpoint))
    library = shipped_library()
    return library if library is not None and library.tower == tower_fingerprint(checkpoint) else None


def shipped_library() -> ReadoutLibrary | None:
    """The default model's library, which comes with its bridge; None where it was taken away."""
    path = BRIDGE / READOUTS
    return read_library(path) if path.is_file() else None
