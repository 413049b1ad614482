"""The front door that vLLM's server loads. Here before a small application; `test_server.py` has the real one."""

import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from fourfold.prompts.errors import UserError
from fourfold.serving.api.keys import Key, KeyRing
from fourfold.serving.vllm.gate import ROUTES, SETTINGS_VARIABLE, VLLMGate, settings
from tests.serving.api.live import Live

USER = {"authorization": "Bearer user-key-0123456789"}
ADMIN = {"authorization": "Bearer admin-key-0123456789"}


def digest(headers: dict[str, str]) -> bytes:
    return hashlib.sha256(headers["authorization"].removeprefix("Bearer ").encode()).digest()


RING = KeyRing([Key("user", digest(USER), per_minute=3), Key("admin", digest(ADMIN), admin=True)])


async def everything(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers on any path, as a new release of vLLM might on some."""
    await PlainTextResponse("reached")(scope, receive, send)


async def ask(path: str, headers: dict[str, str] | None = None, method: str = "GET", host: str = "localhost") -> int:
    transport = httpx.ASGITransport(VLLMGate(everything))
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
        return (await client.request(method, path, headers=headers)).status_code


@pytest.fixture
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, settings(RING, local_names_only=False))


@pytest.mark.usefixtures("_keys")
@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        ("/health", (200, 200, 200)),
        ("/live", (200, 200, 200)),
        ("/ready", (200, 200, 200)),
        ("/v1/models", (401, 200, 200)),
        ("/v1/chat/completions", (401, 200, 200)),
        ("/metrics", (401, 200, 200)),
        ("/v1/load_lora_adapter", (401, 403, 200)),
        ("/v1/unload_lora_adapter", (401, 403, 200)),
        ("/v1/responses", (401, 200, 200)),
        ("/v1/messages", (401, 200, 200)),
        ("/v1/messages/count_tokens", (401, 200, 200)),
        ("/tokenize", (401, 200, 200)),
        ("/detokenize", (401, 200, 200)),
        ("/v1/decisions", (401, 501, 501)),
        ("/v1/models/tiny", (401, 501, 501)),
        ("/v1/completions", (401, 404, 404)),
        ("/v1/responses/resp_1", (401, 404, 404)),
        ("/v1/responses/render", (401, 404, 404)),
        ("/v1/messages/render", (401, 404, 404)),
        ("/invocations", (401, 404, 404)),
        ("/v1/chat/completions/", (401, 404, 404)),
        ("/health/", (401, 404, 404)),
        ("/", (401, 404, 404)),
    ],
)
async def test_who_reaches_what(path: str, statuses: tuple[int, int, int]) -> None:
    assert (await ask(path), await ask(path, USER), await ask(path, ADMIN)) == statuses


async def test_readiness_is_what_the_engine_says_and_life_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, settings(RING, local_names_only=False))

    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"] == "/health"
        await PlainTextResponse("the engine died", 503)(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(VLLMGate(stuck)), base_url="http://localhost") as client:
        said = [(await client.get(path)).status_code for path in ("/live", "/ready", "/health")]
    assert said == [200, 503, 503]


async def test_without_keys_only_adapters_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, settings(KeyRing(), local_names_only=True))
    assert await ask("/v1/chat/completions") == 200
    assert await ask("/v1/load_lora_adapter") == 403
    assert await ask("/pause") == 404
    assert await ask("/v1/chat/completions", host="rebound.example") == 403


async def test_pages_of_listed_origins_and_anthropics_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    page = "https://chat.example"
    monkeypatch.setenv(SETTINGS_VARIABLE, settings(RING, local_names_only=False, allowed_origins=[page]))
    transport = httpx.ASGITransport(VLLMGate(everything))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        asks = {"origin": page, "access-control-request-method": "POST"}
        allowed = await client.options("/v1/messages", headers=asks)
        refused = await client.options("/v1/messages", headers={**asks, "origin": "https://evil.example"})
        key = {"x-api-key": USER["authorization"].removeprefix("Bearer ")}
        answered = await client.post("/v1/messages", headers={**key, "x-request-id": "mine"})
        unknown = await client.post("/v1/messages", headers={"x-api-key": "wrong"})
    assert (allowed.status_code, refused.status_code) == (200, 400)
    assert allowed.headers["access-control-allow-origin"] == page
    assert (answered.status_code, answered.headers["x-request-id"]) == (200, "mine")
    assert unknown.json()["type"] == "error" and unknown.json()["error"]["type"] == "authentication_error"


def test_settings_hold_digests_not_keys() -> None:
    text = settings(RING, local_names_only=False)
    assert "user-key" not in text
    assert json.loads(text)["keys"][0] == {
        "name": "user",
        "digest": digest(USER).hex(),
        "per_minute": 3,
        "admin": False,
    }


@pytest.mark.usefixtures("_keys")
async def test_limit_of_a_key_holds_in_vllm_too() -> None:
    transport = httpx.ASGITransport(VLLMGate(everything))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answers = [await client.post("/v1/chat/completions", headers=USER, json={}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert "retry-after" in answers[3].headers


def test_nothing_is_served_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)
    with pytest.raises(KeyError, match=SETTINGS_VARIABLE):
        VLLMGate(everything)


def told_routes() -> dict[str, tuple[str, str]]:
    """What docs/serving-vllm.md says of each route: (local engine, vLLM)."""
    page = (Path(__file__).parents[3] / "docs" / "serving-vllm.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(/[^`]+)` \| (yes|no) \| (yes|501|no) \|$", page, re.MULTILINE)
    return {route: (local, vllm) for route, local, vllm in rows}


@pytest.mark.usefixtures("_keys")
async def test_page_tells_the_differences(live: Live) -> None:
    told = told_routes()
    local = set(httpx.get(f"{live.url}/openapi.json").json()["paths"])
    # These come with a library of read-outs, which the server of this test has not.
    local |= {"/v1/eyes", "/v1/concepts"}
    assert {route for route, (here, _) in told.items() if here == "yes"} == {
        route for route in local if not route.startswith("/v1/concepts/")
    }
    for route, (_, there) in told.items():
        status = await ask(route.replace("{name}", "tiny"), ADMIN)
        assert status == {"yes": 200, "501": 501, "no": 404}[there], route
    assert set(told) >= ROUTES


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_launcher_says_how_to_install_vllm(tmp_path: Path) -> None:
    from fourfold.serving.vllm.launch import launch_vllm

    with pytest.raises(UserError, match="pip install"):
        launch_vllm(tmp_path)
