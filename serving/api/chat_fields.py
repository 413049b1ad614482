"""Fields of OpenAI's and vLLM's chat requests that this server does not honour: refused, or ignored as harmless.

docs/api-fields.md lists them beside those that it honours; a test keeps all three complete.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_LEAVE_OUT = "leave it out"
REFUSED: Mapping[str, str] = {
    "functions": "send them as tools",
    "function_call": "send it as tool_choice",
    "audio": "answers are text only",
    "web_search_options": "this server does not search the web",
    "moderation": "nothing is moderated here",
    "chat_template": "the model's own template is used; leave it out",
    "documents": "put them into a message",
    "echo": "the answer alone is sent; put the prompt before it yourself",
    "include_stop_str_in_output": "stop strings are never part of an answer",
    "skip_special_tokens": "special tokens are never part of an answer",
    "spaces_between_special_tokens": "special tokens are never part of an answer",
    "truncate_prompt_tokens": "nothing is cut off a prompt; shorten it",
    "use_beam_search": "use n, with a temperature",
    "best_of": "use n, and choose",
    "prompt_logprobs": "/v1/decisions says how likely given answers are",
    "allowed_token_ids": "use structured_outputs, or logit_bias",
    "logits_processors": "no code is taken from requests",
    "structural_tag": "write it as a grammar in structured_outputs",
    "return_token_ids": "/tokenize gives the tokens of a text",
    "return_tokens_as_token_ids": "logprobs name tokens by their text and bytes",
    **dict.fromkeys(
        (
            *("length_penalty", "watermarking", "add_special_tokens", "logprob_token_ids", "return_token_offsets"),
            *("return_prompt_text", "return_mm_kwargs", "media_io_kwargs", "mm_processor_kwargs", "vllm_xargs"),
            *("kv_transfer_params", "ec_transfer_params", "repetition_detection"),
        ),
        _LEAVE_OUT,
    ),
}
"""Fields that change an answer, and what to do without them."""
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "length_penalty": (None, 1),
    "best_of": (None, 1),
    "skip_special_tokens": (None, True),
    "spaces_between_special_tokens": (None, True),
    "function_call": (None, "none", "auto"),
    "prompt_logprobs": (None,),
    "web_search_options": (None,),
}
"""Values with which a refused field asks for nothing; of those not listed null, 0, false and what is empty."""
IGNORED: Mapping[str, str] = {
    "user": "who asks changes no answer",
    "safety_identifier": "who asks changes no answer",
    "metadata": "nothing is stored",
    "store": "nothing is stored",
    "service_tier": "there is one",
    "priority": "requests are served in their order",
    "request_id": "the header `X-Request-Id` is kept",
    "session_id": "every request has its whole conversation",
    "prompt_cache_key": "conversations are found in the cache by what they say",
    "prompt_cache_options": "conversations are found in the cache by what they say",
    "prompt_cache_retention": "conversations are found in the cache by what they say",
    "cache_salt": "what is cached changes no answer",
    "prediction": "it only makes OpenAI's answers faster",
    "reasoning_effort": "the model does not reason before it answers",
    "include_reasoning": "the model does not reason before it answers",
    "thinking_token_budget": "the model does not reason before it answers",
    "verbosity": "a hint to OpenAI's models; use `max_tokens`",
    "truncation_side": "nothing is truncated",
    "stream_interval": "pieces are sent as they come",
    "mm_payload": "of answers with tensors, which are none",
    "routed_experts_prompt_start": "of models with experts",
    "guided_decoding_backend": "there is one",
}
"""Fields that change no answer here, and why not."""


def unserved(extra: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The refused fields among those of a request that ask for something, and why they are refused."""
    for field, value in extra.items():
        if field in REFUSED and value not in _NEUTRAL.get(field, (None, 0, "", [], {})):
            yield field, REFUSED[field]
