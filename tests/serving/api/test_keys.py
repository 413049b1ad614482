"""API keys: who gets in, how often, and what the log says of it."""

import socket
from pathlib import Path

import httpx
import pytest

from fourfold.serving.api.keys import Key, KeyRing, RateLimiter, collect_keys
from tests.serving.api.live import PLAIN, Live, bearer, data_uri, image_part, text_part


class TestKeys:
    def test_without_and_with(self, keyed: Live) -> None:
        for headers in (
            {},
            bearer("wrong-key-0123456789"),
            {"authorization": "Bearer"},
            {"authorization": PLAIN},
            bearer(PLAIN + "x"),
        ):
            response = keyed.chat(headers=headers)
            assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
        assert keyed.chat(headers=bearer(PLAIN)).status_code == 200
        assert keyed.chat(headers={"authorization": f"bearer   {PLAIN}"}).status_code == 200

    def test_only_health_is_open(self, keyed: Live) -> None:
        for path in ("/health", "/ready", "/live"):
            assert httpx.get(keyed.url + path).status_code == 200
        for path in ("/metrics", "/v1/models", "/openapi.json", "/nope"):
            assert httpx.get(keyed.url + path).status_code == 401

    def test_refused_before_the_body_is_read(self, keyed: Live) -> None:
        with socket.create_connection(("127.0.0.1", keyed.port), timeout=5) as connection:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
            assert b" 401 " in connection.recv(4096)

    def test_rate_limit(self, keyed: Live) -> None:
        headers = bearer("limited-key-0123456789")
        codes = [keyed.chat(headers=headers).status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        response = keyed.chat(headers=headers)
        assert 1 <= int(response.headers["retry-after"]) <= 30
        assert response.json()["error"]["code"] == "rate_limit_exceeded"
        assert keyed.chat(headers=bearer(PLAIN)).status_code == 200  # others go on

    def test_buckets_fill_evenly(self) -> None:
        now = 0.0
        limiter = RateLimiter(lambda: now)
        key = Key("k", b"", per_minute=6)
        assert [limiter.spend(key) for _ in range(7)] == [0.0] * 6 + [10.0]
        now = 9.0
        assert limiter.spend(key) == pytest.approx(1.0)
        now = 10.0
        assert limiter.spend(key) == 0.0
        now = 10_000.0
        assert [limiter.spend(key) > 0 for _ in range(7)] == [False] * 6 + [True]

    def test_sources(self, tmp_path: Path) -> None:
        environment = {"FOURFOLD_API_KEYS": "aaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbb", "FOURFOLD_ADMIN_KEY": "c" * 16}
        ring = collect_keys(["d" * 16], None, environment, per_minute=5)
        assert [(key.admin, key.per_minute) for key in ring.keys] == [(False, 5)] * 3 + [(True, 5)]
        found = ring.find("c" * 16)
        assert found is not None and found.admin
        assert ring.find("e" * 16) is None and ring.find("") is None and ring.find("\udcff" * 16) is None
        assert "aaaa" not in repr(ring.keys) and not collect_keys([], None, {})

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("short", "at least 16"),
            ("# nothing", "holds no key"),
            ("k" * 16 + " color=red", "name=NAME"),
            ("k" * 16 + " per-minute=0", "per-minute"),
            ("k" * 16 + "\n" + "k" * 16, "repeats"),
            ("schlüssel-schlüssel", "ASCII"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, text: str, message: str) -> None:
        file = tmp_path / "keys"
        file.write_text(text)
        with pytest.raises(ValueError, match=message) as error:
            collect_keys([], file, {})
        assert "k" * 16 not in str(error.value)
        with pytest.raises(ValueError, match="cannot be read"):
            collect_keys([], tmp_path / "missing", {})


def test_logs_hold_no_keys_prompts_or_images(keyed: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    image = data_uri("orange")
    keyed.chat([image_part(image), text_part("a very private question")], headers=bearer(PLAIN))
    keyed.chat([image_part(image + "!"), text_part("a very private question")], headers=bearer("wrong" * 5))
    keyed.chat([image_part(image + "!"), text_part("a very private question")], headers=bearer(PLAIN))
    ours = "\n".join(r.getMessage() for r in caplog.records if not r.name.startswith(("httpcore", "httpx", "asyncio")))
    assert "key=alice" in ours and "POST" in ours
    for secret in (PLAIN, "wrongwrong", "private", image[30:60]):
        assert secret not in ours


def test_limiter_needs_no_keys(live: Live) -> None:
    assert not KeyRing().find("anything")
    assert live.chat().status_code == 200
