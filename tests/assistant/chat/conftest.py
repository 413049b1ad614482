"""What the tests of the conversation share."""

import pytest

from fourfold.assistant.chat.history import ChatHistory
from tests.assistant.scripted_endpoint import ScriptedEndpoint


@pytest.fixture
def endpoint():
    """Starts endpoints that answer by a script."""
    servers = []

    def start(script, **options):
        servers.append(ScriptedEndpoint(script, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def history(tmp_path):
    return ChatHistory(tmp_path / "history.sqlite")
