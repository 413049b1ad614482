"""The body of POST /v1/chat/completions: what is honoured, what is ignored, and what is refused with a reason.

Fields that only inform OpenAI's own service (`user`, `metadata`, `store`, ...) are accepted and ignored. Fields that
would change the answer in a way this server cannot deliver (`tools`, `response_format`, `top_k`, ...) get a 400 that
says so, unless their value asks for nothing.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.engine.requests import Sampling


def _mend(text: str) -> str:
    """JSON can carry half a surrogate pair (an emoji cut in two), which no tokenizer and no answer can."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


Text = Annotated[str, AfterValidator(_mend)]


class _Body(BaseModel):
    # Unknown fields are ignored: clients add new ones all the time. Strict, so that "1" is not taken for 1.
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class ImageUrl(_Body):
    """Where an image is: a base64 data URI, or an https URL on a host that the operator allowed."""

    url: Text = Field(description="data:image/...;base64,... or an allowed https URL")
    detail: str | None = Field(None, description="ignored: every image is read at the model's own size")


class ImagePart(_Body):
    type: Literal["image_url"]
    image_url: ImageUrl


class TextPart(_Body):
    type: Literal["text"]
    text: Text


class RefusalPart(_Body):
    """What a model declined to do, as replayed by clients in an assistant's message."""

    type: Literal["refusal"]
    refusal: Text


class SystemMessage(_Body):
    role: Literal["system", "developer"]
    content: Text | list[TextPart]


class UserMessage(_Body):
    role: Literal["user"]
    content: Text | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]]


class AssistantMessage(_Body):
    role: Literal["assistant"]
    content: Text | list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]] | None = None
    refusal: Text | None = None
    tool_calls: list[Any] | None = None


class StreamOptions(_Body):
    include_usage: bool | None = None


class ResponseFormat(_Body):
    type: str


class TemplateVariables(_Body):
    """Variables of chat templates, as vLLM takes them; what a template does not know changes nothing."""

    double_bos: bool | None = Field(None, description="of MiniGPT-v2: two BOS begin the prompt; true by default")


_UNSERVED = {
    "tools": "this model was not trained to call tools; leave them out",
    "functions": "this model was not trained to call functions; leave them out",
    "frequency_penalty": "use repetition_penalty, or leave it out",
    "presence_penalty": "use repetition_penalty, or leave it out",
    "top_k": "use top_p, or leave it out",
    "min_p": "use top_p, or leave it out",
    "audio": "answers are text only",
    "web_search_options": "this server does not search the web",
    "chat_template": "the model's own template is used; leave it out",
    **dict.fromkeys(
        (
            *("logit_bias", "logits_processors", "allowed_token_ids", "bad_words", "stop_token_ids", "min_tokens"),
            *("ignore_eos", "include_stop_str_in_output", "length_penalty", "use_beam_search", "best_of", "echo"),
            *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_whitespace_pattern"),
            *("structured_outputs", "structural_tag", "prompt_logprobs", "skip_special_tokens", "documents"),
            *("truncate_prompt_tokens", "add_generation_prompt", "continue_final_message", "mm_processor_kwargs"),
        ),
        "leave it out",
    ),
}
"""Fields of OpenAI's API and of vLLM's that change an answer, and why they are refused."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_k": (None, 0, -1),
    "length_penalty": (None, 1),
    "best_of": (None, 1),
    "skip_special_tokens": (None, True),
    "add_generation_prompt": (None, True),
    "prompt_logprobs": (None,),
    "web_search_options": (None,),
}
"""Values with which a field asks for nothing; of those not listed null, 0, false and what is empty."""


class ChatRequest(_Body):
    model_config = ConfigDict(extra="allow")  # to look for `_UNSERVED` among them

    messages: list[Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]] = Field(
        min_length=1, max_length=2000
    )
    model: Text | None = Field(None, description="a name of /v1/models; the base model where it is left out")
    max_tokens: int | None = Field(None, ge=1, le=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31)
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, is greedy")
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None
    n: int | None = Field(None, ge=1, le=128)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    repetition_penalty: float | None = Field(None, gt=0, le=2, description="as in vLLM; 1 is none")
    response_format: ResponseFormat | None = Field(None, description="only {type: text} is served")
    chat_template_kwargs: TemplateVariables | None = None
    forced_answer: Text | None = Field(None, min_length=1, description="is answered, as a remembered correction is")
    memory: bool | None = Field(None, description="false: no answer from the correction memory")
    modalities: list[str] | None = Field(None, description="only text is served")

    def check_served(self, limits: ServerLimits) -> None:
        """Refuse what would be silently wrong.

        Raises:
            ApiError: A field asks for something this server does not do.
        """
        for field, why in self._unserved():
            raise ApiError(400, f"{field} is not supported: {why}", param=field, code="unsupported_parameter")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs", code="invalid_value")
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options needs stream to be true", param="stream_options", code="invalid_value")
        if any(not stop for stop in self.stops):
            raise ApiError(400, "a stop string is empty; leave it out", param="stop", code="invalid_value")
        if self.choices > limits.choices:
            message = f"n is {self.n}; this server makes at most {limits.choices} choices"
            raise ApiError(400, message, param="n", code="invalid_value")
        if sum(isinstance(part, ImagePart) for part in self._parts()) > limits.images:
            message = f"more than {limits.images} images in one request; leave some out"
            raise ApiError(400, message, param="messages", code="too_many_images")

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, choice: int, limits: ServerLimits) -> Sampling:
        """How to draw answer number `choice`; with a seed, each choice gets one of its own."""
        wanted = self.max_completion_tokens or self.max_tokens or limits.default_max_tokens
        seed = None if self.seed is None else (self.seed + choice) % 2**63
        return Sampling(
            max_tokens=min(wanted, limits.max_tokens),
            temperature=0.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=seed,
            stop=self.stops,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
        )

    def template(self) -> dict[str, bool]:
        return self.chat_template_kwargs.model_dump(exclude_none=True) if self.chat_template_kwargs else {}

    def text_length(self) -> int:
        """Characters of all text, to refuse hopelessly long prompts before tokenising them."""
        plain = sum(len(message.content) for message in self.messages if isinstance(message.content, str))
        return plain + sum(len(part.text) for part in self._parts() if isinstance(part, TextPart))

    def has_remote_images(self) -> bool:
        return any(isinstance(part, ImagePart) and part.image_url.url[:5].lower() != "data:" for part in self._parts())

    def _parts(self) -> Iterator[TextPart | ImagePart | RefusalPart]:
        for message in self.messages:
            if isinstance(message.content, list):
                yield from message.content

    def _unserved(self) -> Iterator[tuple[str, str]]:
        if any(isinstance(message, AssistantMessage) and message.tool_calls for message in self.messages):
            yield "messages", "assistant messages with tool_calls cannot be read; send text"
        if self.response_format is not None and self.response_format.type != "text":
            kind = "JSON output cannot be guaranteed by this server; ask for JSON in the prompt and check it"
            yield "response_format", kind
        if any(kind != "text" for kind in self.modalities or ()):
            yield "modalities", "answers are text only"
        for field, value in (self.model_extra or {}).items():
            if field in _UNSERVED and value not in _NEUTRAL.get(field, (None, 0, "", [], {})):
                yield field, _UNSERVED[field]
