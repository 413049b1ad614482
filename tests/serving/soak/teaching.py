"""What an operator and a teacher do meanwhile: adapters promoted and rolled back, corrections, things shown once."""

import io
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from safetensors.numpy import save_file

from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.images import Attachment
from fourfold.assistant.refine.adapter import CONFIG, WEIGHTS
from fourfold.assistant.refine.record import Correction
from fourfold.assistant.refine.registry import SERVED_NAME, Registry
from fourfold.assistant.refine.store import CorrectionStore
from tests.serving.soak.clients import Pictures, Surroundings
from tests.serving.soak.server import ADMIN_KEY, bearer, wait_until

ADAPTER_EVERY, TEACH_EVERY = 60.0, 20.0  # seconds
KEPT = 60
"""Corrections, and things shown once, that are kept; the oldest are forgotten, as a tidy person does."""
_STEPS = ("promote 0", "promote 1", "rollback", "rollback")


def make_adapters(store: Path, model: str | None) -> list[str]:
    """Two small random LoRA adapters of a model's queries and values, registered; their revisions."""
    directory = resolve_model(model)
    text = json.loads((directory / "config.json").read_text(encoding="utf-8"))["text_config"]
    width, heads = text["hidden_size"], text["head_dim"]
    outputs = {"q_proj": heads * text["num_attention_heads"], "v_proj": heads * text["num_key_value_heads"]}
    registry, rank = Registry(store), 4
    revisions = []
    for seed in (1, 2):
        dice = np.random.default_rng(seed)
        weights = {}
        for layer in range(text["num_hidden_layers"]):
            for name, rows in outputs.items():
                prefix = f"base_model.model.model.language_model.layers.{layer}.self_attn.{name}"
                down, up = dice.normal(0, width**-0.5, (rank, width)), dice.normal(0, 0.01, (rows, rank))
                weights[f"{prefix}.lora_A.weight"] = down.astype(np.float32)
                weights[f"{prefix}.lora_B.weight"] = up.astype(np.float32)
        built = store / f"built{seed}"
        built.mkdir(parents=True)
        save_file(weights, built / WEIGHTS, metadata={"format": "pt"})
        targets = r".*language_model\.layers\.\d+\..*\.(q_proj|v_proj)"
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": targets}
        (built / CONFIG).write_text(json.dumps({**config, "bias": "none", "inference_mode": True}))
        base = model_fingerprint(directory)
        revisions.append(registry.register(built, base=base, data=f"soak {seed}", records=[]).id)
    return revisions


class Operator(threading.Thread):
    """Promotes and rolls back by the command, as people do, and sees that the server follows."""

    def __init__(
        self, around: Surroundings, store: Path, revisions: list[str], record: Callable[..., None], every: float
    ) -> None:
        super().__init__(name="operator", daemon=True)
        self._around, self._store, self._revisions, self._record = around, store, revisions, record
        self._every = every

    def run(self) -> None:
        began = time.monotonic()
        turn = 0
        while not wait_until(began + (turn + 0.25) * self._every, self._around.stop):
            verb, _, number = _STEPS[turn % len(_STEPS)].partition(" ")
            words = [self._revisions[int(number)], "--force"] if number else []
            if verb == "rollback" and turn % len(_STEPS) == len(_STEPS) - 1:
                self._around.refined = False  # before the name is gone, so that few ask for it then
            started = time.monotonic()
            try:
                said = self._command(verb, *words)
                served = self._served()
                expected = bool(Registry(self._store).state().current)
                self._around.refined = served
                done = said.returncode == 0 and served == expected
                trouble = "" if done else said.stderr[-300:] or f"served: {served}"
            except Exception as error:  # reported, whatever it is
                trouble = f"{type(error).__name__}: {error}"[:300]
            self._record(what=verb, seconds=round(time.monotonic() - started, 3), trouble=trouble)
            turn += 1

    def _command(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fourfold.cli", "refine", verb, *words, "--store", str(self._store)]
        environment = {**os.environ, "FOURFOLD_ADMIN_KEY": ADMIN_KEY, "OMP_NUM_THREADS": "1"}
        command += ["--endpoint", self._around.url, "--json"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    def _served(self) -> bool:
        models = httpx.get(f"{self._around.url}/models", headers=bearer(ADMIN_KEY), timeout=60).json()["data"]
        return any(model["id"] == SERVED_NAME for model in models)


class Teacher(threading.Thread):
    """Corrects answers in the store, as the page does, and shows things by HTTP; the oldest are forgotten."""

    def __init__(self, around: Surroundings, store: Path, seed: int, record: Callable[..., None], every: float) -> None:
        super().__init__(name="teacher", daemon=True)
        self._around, self._record, self._every = around, record, every
        self._store = CorrectionStore(store)
        self._pictures, self._dice = Pictures(f"teacher {seed}"), random.Random(f"teacher {seed}")
        self._corrected: list[str] = []
        self._number = 0

    def run(self) -> None:
        began = time.monotonic()
        while not wait_until(began + (self._number + 0.5) * self._every, self._around.stop):
            self._number += 1
            started, what, trouble = time.monotonic(), "corrected" if self._number % 2 else "shown", ""
            try:
                self._correct() if self._number % 2 else self._show()
            except Exception as error:  # reported, whatever it is: nothing here may fail
                trouble = f"{type(error).__name__}: {error}"[:300]
            self._record(what=what, seconds=round(time.monotonic() - started, 3), trouble=trouble)

    def _correct(self) -> None:
        question, right = f"what is thing {self._number}?", f"It is thing number {self._number}."
        buffer = io.BytesIO()
        self._pictures.image().save(buffer, "PNG")
        picture = Attachment(buffer.getvalue())
        messages = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},)
        record = Correction(messages=messages, rejected="a thing", chosen=right, consent=True, remember=True)
        self._corrected.append(self._store.add(record, picture).id)
        self._around.known.append((question, picture.data_uri, right))
        if len(self._corrected) > KEPT:
            self._around.known.pop(0)
            self._store.forget(self._corrected.pop(0))

    def _show(self) -> None:
        name = f"thingamy {self._number}"
        body = {"name": name, "image": self._pictures.uri(), "boxes": [[0.2, 0.2, 0.7, 0.7]]}
        self._post("POST", "", body)
        self._around.shown.append(name)
        if len(self._around.shown) > KEPT:
            self._post("DELETE", "/" + self._around.shown.pop(0), None)

    def _post(self, method: str, path: str, body: Any) -> None:
        url = f"{self._around.url}/concepts{path}"
        httpx.request(method, url, json=body, headers=bearer(ADMIN_KEY), timeout=300).raise_for_status()
