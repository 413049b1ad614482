"""LoRA adapters loaded and unloaded over HTTP."""

import concurrent.futures
import time
from pathlib import Path

import httpx
import pytest

from fourfold.serving.engine.engine import Engine
from tests.serving.api.live import ADMIN, HOT, PLAIN, Live, bearer
from tests.serving.engine.conversations import wait_for


class TestAdapters:
    def test_load_changes_and_unload_restores(self, keyed: Live, adapter: Path) -> None:
        def logprobs(model: str) -> list[float]:
            answer = keyed.chat(headers=bearer(PLAIN), model=model, logprobs=True).json()
            return [token["logprob"] for token in answer["choices"][0]["logprobs"]["content"]]

        def change(route: str, **body: str) -> httpx.Response:
            return httpx.post(f"{keyed.url}/v1/{route}_lora_adapter", json=body, headers=bearer(ADMIN), timeout=60)

        before = logprobs("tiny")
        loaded = change("load", lora_name="tuned", lora_path=str(adapter))
        assert loaded.status_code == 200 and "tuned" in loaded.text
        names = [c["id"] for c in httpx.get(f"{keyed.url}/v1/models", headers=bearer(PLAIN)).json()["data"]]
        assert names == ["tiny", "tuned"]
        again = change("load", lora_name="tuned", lora_path=str(adapter))
        assert (again.status_code, again.json()["error"]["param"]) == (400, "lora_name")
        assert logprobs("tuned") != pytest.approx(before, abs=1e-3)
        assert logprobs("tiny") == pytest.approx(before, abs=1e-5)
        assert change("unload", lora_name="tuned").status_code == 200
        assert keyed.chat(headers=bearer(PLAIN), model="tuned").status_code == 404
        assert change("unload", lora_name="tuned").status_code == 404
        assert logprobs("tiny") == pytest.approx(before, abs=1e-5)

    def test_unloading_while_it_answers(self, keyed: Live, tiny_engine: Engine, adapter: Path) -> None:
        def change(route: str, **body: str) -> int:
            url = f"{keyed.url}/v1/{route}_lora_adapter"
            return httpx.post(url, json=body, headers=bearer(ADMIN), timeout=60).status_code

        assert change("load", lora_name="busy", lora_path=str(adapter)) == 200
        fields = {"model": "busy", "max_tokens": 200, **HOT}
        expected = keyed.chat(headers=bearer(PLAIN), **fields).json()["choices"]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(keyed.chat, headers=bearer(PLAIN), **fields) for _ in range(4)]
            wait_for(lambda: tiny_engine.stats.running)
            time.sleep(0.05)
            assert change("unload", lora_name="busy") == 200
            codes = [answer.result().status_code for answer in answers]
        assert set(codes) <= {200, 404}
        assert 200 in codes
        assert all(a.result().json()["choices"] == expected for a in answers if a.result().status_code == 200)

    def test_who_may(self, live: Live, keyed: Live, adapter: Path) -> None:
        body = {"lora_name": "x", "lora_path": str(adapter)}
        assert httpx.post(f"{live.url}/v1/load_lora_adapter", json=body).status_code == 403
        url = f"{keyed.url}/v1/load_lora_adapter"
        assert httpx.post(url, json=body).status_code == 401
        assert httpx.post(url, json=body, headers=bearer(PLAIN)).status_code == 403

    def test_bad_adapters(self, keyed: Live, adapter: Path, tmp_path: Path) -> None:
        pickled = tmp_path / "pickled"
        pickled.mkdir()
        (pickled / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
        (pickled / "adapter_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "adapter_config.json").write_text("{}")
        (broken / "adapter_model.safetensors").write_bytes(b"\xff" * 100)
        for path in (str(pickled), str(broken), "/nonexistent", "someone/on-the-hub", "\0", "/dev/zero", "a" * 5000):
            body = {"lora_name": "bad", "lora_path": path}
            response = httpx.post(f"{keyed.url}/v1/load_lora_adapter", json=body, headers=bearer(ADMIN), timeout=30)
            assert (response.status_code, response.json()["error"]["param"]) == (400, "lora_path"), path
        for name in ("tiny", "", "../x", "a b", "x\r\nset-cookie: a", "a" * 101):
            body = {"lora_name": name, "lora_path": str(adapter)}
            response = httpx.post(f"{keyed.url}/v1/load_lora_adapter", json=body, headers=bearer(ADMIN), timeout=30)
            assert response.status_code == 400, name
        assert keyed.chat(headers=bearer(PLAIN)).status_code == 200
