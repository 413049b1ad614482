"""Every bash and Python snippet of docs/serving.md and docs/decisions.md but LiteLLM's, run against a live server.

LiteLLM brings two dozen packages and older versions of ours. It lives in vLLM's environment and is tested there.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourfold.serving.api.keys import collect_keys
from fourfold.serving.engine.engine import Engine
from tests.assistant.pictures import encode, scene
from tests.serving.api.live import Live, live_server

DOCS = Path(__file__).parents[3] / "docs"
PAGE = "\n".join((DOCS / name).read_text(encoding="utf-8") for name in ("serving.md", "decisions.md"))
ALL = re.findall(r"^```(bash|python)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
SNIPPETS = [(language, code) for language, code in ALL if "litellm" not in code]
KEY, ADMIN = "reader-key-0123456789", "admin-key-0123456789"


@pytest.fixture(scope="module")
def server(tiny_engine: Engine) -> Iterator[Live]:
    with live_server(tiny_engine, keys=collect_keys([KEY], None, {"FOURFOLD_ADMIN_KEY": ADMIN})) as server:
        yield server


def test_page_shows_what_it_should() -> None:
    for word in ("curl", "from openai", "langchain_openai", "litellm", "OPENAI_BASE_URL", "load_lora_adapter"):
        assert sum(word in code for _, code in ALL) >= 1, word
    assert len(ALL) == len(SNIPPETS) + 1


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number: int, server: Live, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    language, code = SNIPPETS[number]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOURFOLD_KEY", KEY)
    monkeypatch.setenv("FOURFOLD_ADMIN_KEY", ADMIN)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"])
    Path("photo.jpg").write_bytes(encode(scene(), "JPEG"))
    code = code.replace("http://127.0.0.1:8000", server.url).replace("fourfold-mini", "tiny")
    code = code.replace("/srv/fourfold/adapters/corrected", str(adapter))
    if language == "python":
        exec(compile(code, f"docs, snippet {number}", "exec"), {"__name__": "snippet"})
        return
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert '"error"' not in done.stdout and done.stdout.strip()
