"""What supervisors are told."""

import httpx

from fourfold.serving.api.app import create_app
from fourfold.serving.api.keys import KeyRing
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.engine.engine import Engine


async def test_a_server_that_ends_is_alive_and_not_ready(tiny_engine: Engine) -> None:
    app = create_app(tiny_engine, keys=KeyRing(), limits=ServerLimits())

    async def states() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return [(await client.get(path)).status_code for path in ("/live", "/ready", "/health")]

    assert await states() == [200, 200, 200]
    app.state.tracker.close()
    assert await states() == [200, 503, 503]
