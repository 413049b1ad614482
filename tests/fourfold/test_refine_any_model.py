"""A model that the engine cannot run: taught here, gated, promoted and rolled back at the endpoint that serves it."""

import base64
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import fourfold.cli.main as cli
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.eval import gate as gate_module
from tests.assistant.refine.corrections import correction, encoded, picture
from tests.tiny_llava import save_tiny_llava

RECIPE = """
lora: {rank: 8, alpha: 16}
lora_lr: 1e-2
least_steps: 30
most_steps: 30
batch_size: 4
share: 0.5
replay_images: 4
replay: {scenes: 4, scenes_per_epoch: 4, turns: 1, multi_turn: 0.0, scene_tasks: {existence: 1}}
"""
BASE, CANDIDATE, CURRENT = "tiny-llava", "candidate", "fourfold-refined"


def _app(directory: Path) -> FastAPI:
    """Chat completions by transformers' own `generate`, and vLLM's routes for adapters."""
    app, lock = FastAPI(), threading.Lock()
    processor = AutoProcessor.from_pretrained(directory)
    plain = AutoModelForImageTextToText.from_pretrained(directory).eval()
    served: dict[str, Any] = {BASE: plain}

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model"} for name in served]}

    @app.post("/v1/load_lora_adapter")
    def load(body: dict[str, Any]) -> str:
        copy = AutoModelForImageTextToText.from_pretrained(directory)
        served[body["lora_name"]] = PeftModel.from_pretrained(copy, body["lora_path"]).eval()
        return f"Success: LoRA adapter '{body['lora_name']}' added successfully."

    @app.post("/v1/unload_lora_adapter")
    def unload(body: dict[str, Any]) -> str:
        served.pop(body["lora_name"], None)
        return f"Success: LoRA adapter '{body['lora_name']}' removed successfully."

    @app.post("/v1/chat/completions")
    def complete(body: dict[str, Any]) -> dict[str, Any]:
        if body["model"] not in served:
            raise HTTPException(404, "no such model")
        messages = [_decoded(message) for message in body["messages"]]
        with lock, torch.no_grad():
            inputs = processor.apply_chat_template(
                messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
            )
            out = served[body["model"]].generate(**inputs, max_new_tokens=min(body["max_tokens"], 6), do_sample=False)
        text = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text.strip()}}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}

    return app


def _decoded(message: dict[str, Any]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return {**message, "content": [{"type": "text", "text": message["content"]}]}
    parts = []
    for part in message["content"]:
        if part["type"] == "image_url":
            content = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            part = {"type": "image", "image": Image.open(io.BytesIO(content)).convert("RGB")}
        parts.append(part)
    return {**message, "content": parts}


@contextmanager
def _serving(directory: Path) -> Iterator[str]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(_app(directory), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(5)
        listener.close()


@pytest.fixture
def refine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """`fourfold refine WORDS --json`; what it prints."""

    def run(*words: object) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["fourfold", "refine", *map(str, words), "--json"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
            sys.exit(0)
        out, err = capsys.readouterr()
        assert not caught.value.code, err
        return json.loads(out)

    return run


def test_train_gate_promote_and_roll_back_at_an_endpoint(
    refine: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    model = save_tiny_llava(tmp_path / BASE)
    store = CorrectionStore(tmp_path / "store")
    for number in range(6):
        store.add(correction(number, id=f"c{number}"), encoded(picture(number)))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    few = gate_module.untouched_tasks  # the card in small, smaller still
    monkeypatch.setattr(gate_module, "untouched_tasks", lambda *_, **more: few(["scenes"], 2, 0, **more))
    shared = ("--store", store.directory)
    trained = refine("train", "--model", model, "--recipe", recipe, *shared)
    assert trained["architecture"] == "llava" and trained["losses"][-1] < trained["losses"][0]
    revision = trained["revision"]

    with _serving(model) as url:

        def names() -> list[str]:
            return [one["id"] for one in httpx.get(f"{url}/models").json()["data"]]

        adapter = store.directory / "adapters" / revision
        body = {"lora_name": CANDIDATE, "lora_path": str(adapter)}
        assert httpx.post(f"{url}/load_lora_adapter", json=body, timeout=60).status_code == 200
        gated = refine(
            "gate", "--model", model, "--endpoint", url, "--served-model", CANDIDATE, "--served-baseline", BASE, *shared
        )
        assert gated["promotable"], gated["summary"]["reasons"]
        seen = next(one for one in gated["summary"]["slices"] if one["role"] == "seen")
        assert seen["before"]["value"] < seen["after"]["value"]
        assert refine("promote", "--endpoint", url, *shared)["current"] == revision
        assert CURRENT in names()
        assert refine("rollback", "--endpoint", url, *shared)["current"] is None
        assert CURRENT not in names()
    events = [event["what"] for event in refine("history", *shared)["events"]]
    assert events == ["trained", "gated", "promoted", "rolled back"]


def test_what_the_engine_cannot_run_is_said_where_it_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny_llava(tmp_path / BASE)
    monkeypatch.setattr(sys, "argv", ["fourfold", "refine", "gate", "--model", str(model), "--store", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "holds a model of type 'llava'" in said and "--endpoint" in said
