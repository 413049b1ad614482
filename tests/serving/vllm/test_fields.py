"""The table of fields in docs/api-fields.md knows all that vLLM's own chat request has."""

import pytest

from tests.serving.api.fields import listed_fields

pytestmark = pytest.mark.vllm


def test_every_field_of_vllms_request_is_listed() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    assert listed_fields("vLLM") == set(ChatCompletionRequest.model_fields)
