"""Every field of OpenAI's and vLLM's chat requests is honoured, refused or known to be harmless; the page says it."""

import pytest

from fourfold.serving.api.chat_fields import IGNORED, REFUSED
from fourfold.serving.api.chat_schema import ChatRequest
from tests.serving.api.fields import PAGE, listed_fields, openai_fields, table
from tests.serving.api.live import Live


def test_the_page_has_the_table_of_the_packages_own_types() -> None:
    """vLLM's are compared in its own environment, tests/serving/vllm/test_fields.py."""
    written = table(listed_fields("vLLM"))
    assert "| ? |" not in written
    assert written in PAGE.read_text(encoding="utf-8")
    assert listed_fields("OpenAI") == openai_fields()


def test_a_field_has_one_fate() -> None:
    honoured = set(ChatRequest.model_fields)
    assert not (honoured & set(REFUSED) or honoured & set(IGNORED) or set(REFUSED) & set(IGNORED))


@pytest.mark.parametrize("field", REFUSED)
def test_refused(live: Live, field: str) -> None:
    refused = live.chat(**{field: "something"})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["param"] == field and error["code"] == "unsupported_parameter" and REFUSED[field] in error["message"]


def test_ignored(live: Live) -> None:
    plain = live.chat().json()["choices"]
    assert live.chat(**dict.fromkeys(IGNORED, "something")).json()["choices"] == plain
