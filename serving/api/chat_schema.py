"""The body of POST /v1/chat/completions: what is honoured. What is not, and why, says `chat_fields`."""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from fourfold.serving.api.body import Body, OneComplaint, Text
from fourfold.serving.api.chat_fields import unserved
from fourfold.serving.api.errors import ApiError
from fourfold.serving.api.forms import FormFields
from fourfold.serving.api.limits import ServerLimits
from fourfold.serving.api.tools import ToolCall, ToolFields
from fourfold.serving.engine.requests import Sampling, StructuredOutputs


class ImageUrl(Body):
    """Where an image is: a base64 data URI, or an https URL on a host that the operator allowed."""

    url: Text = Field(description="data:image/...;base64,... or an allowed https URL")
    detail: str | None = Field(None, description="ignored: every image is read at the model's own size")


class ImagePart(Body):
    type: Literal["image_url"]
    image_url: ImageUrl | Text  # many clients send the URL alone

    @property
    def url(self) -> str:
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


class TextPart(Body):
    type: Literal["text"]
    text: Text


class RefusalPart(Body):
    """What a model declined to do, as replayed by clients in an assistant's message."""

    type: Literal["refusal"]
    refusal: Text


class SystemMessage(Body):
    role: Literal["system", "developer"]
    content: Text | Annotated[list[TextPart], OneComplaint]


class UserMessage(Body):
    role: Literal["user"]
    content: Text | Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], OneComplaint]


class AssistantMessage(Body):
    role: Literal["assistant"]
    content: (
        Text | Annotated[list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]], OneComplaint] | None
    ) = None
    refusal: Text | None = None
    tool_calls: list[ToolCall] | None = None


class ToolMessage(Body):
    """What a called function returned."""

    role: Literal["tool"]
    content: Text | Annotated[list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], OneComplaint]
    tool_call_id: Text
    name: Text | None = None


TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]


def _few(biases: Any) -> Any:
    """Counted before each is looked at: a million that are wrong would be a million errors."""
    if isinstance(biases, dict) and len(biases) > 1024:
        raise ValueError(f"{len(biases):,} tokens have a bias; give at most 1,024")
    return biases


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class StreamOptions(Body):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = Field(None, description="not served; the last chunk has the usage")


class TemplateVariables(Body):
    """Variables of chat templates, as vLLM takes them; what a template does not know changes nothing."""

    double_bos: bool | None = Field(None, description="of MiniGPT-v2: two BOS begin the prompt; true by default")


class ChatRequest(FormFields, ToolFields):
    model_config = ConfigDict(extra="allow")  # to look for what is refused among them

    messages: list[ChatMessage] = Field(min_length=1, max_length=2000, fail_fast=True)
    model: Text | None = Field(None, description="a name of /v1/models; the base model where it is left out")
    max_tokens: int | None = Field(None, ge=1, le=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31)
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, is greedy")
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="choice i of n is drawn with seed + i")
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    n: int | None = Field(None, ge=1, le=128, description="at most 8")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    repetition_penalty: float | None = Field(None, gt=0, le=2, description="as in vLLM; 1 is none")
    top_k: int | None = Field(None, ge=-1, le=2**31, description="0 and -1 are all")
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[dict[TokenId, Bias], BeforeValidator(_few)] | None = Field(
        None, max_length=1024, description="by token, -100..100"
    )
    min_tokens: int | None = Field(None, ge=0, le=2**31, description="stop strings count from there on")
    stop_token_ids: list[int] | None = Field(None, max_length=128, description="not part of the text")
    bad_words: list[Annotated[Text, Field(max_length=200)]] | None = Field(
        None, max_length=128, description="as a text's first word and behind a space"
    )
    ignore_eos: bool | None = Field(None, description="for measuring speed")
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = Field(None, description="needs add_generation_prompt to be false")
    chat_template_kwargs: TemplateVariables | None = None
    forced_answer: Text | None = Field(None, min_length=1, description="is answered, as a remembered correction is")
    memory: bool | None = Field(None, description="false: no answer from the correction memory")
    modalities: list[str] | None = Field(None, max_length=16, description="only text is served")

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
        if self.stream_options is not None and self.stream_options.continuous_usage_stats:
            message = "stream_options.continuous_usage_stats is not supported: the last chunk has the usage"
            param = "stream_options.continuous_usage_stats"
            raise ApiError(400, message, param=param, code="unsupported_parameter")
        if any(not stop for stop in self.stops):
            raise ApiError(400, "a stop string is empty; leave it out", param="stop", code="invalid_value")
        if any(not word.strip() for word in self.bad_words or ()):
            raise ApiError(400, "one of bad_words is empty; leave it out", param="bad_words", code="invalid_value")
        if (self.min_tokens or 0) > self._max_tokens(limits):
            message = f"min_tokens is {self.min_tokens}, but an answer has at most {self._max_tokens(limits)} tokens"
            raise ApiError(400, message, param="min_tokens", code="invalid_value")
        self._check_continuation()
        if self.form is not None and self.ignore_eos:
            message = "ignore_eos goes on behind the end of an answer, where its form allows nothing"
            raise ApiError(400, message, param="ignore_eos", code="invalid_value")
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
        seed = None if self.seed is None else (self.seed + choice) % 2**63
        return Sampling(
            max_tokens=self._max_tokens(limits),
            temperature=0.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=seed,
            stop=self.stops,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=tuple((int(token), value) for token, value in (self.logit_bias or {}).items()),
            min_tokens=self.min_tokens or 0,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            bad_words=tuple(self.bad_words or ()),
            ignore_eos=bool(self.ignore_eos),
            structured_outputs=self.form[1] if self.form else None,
        )

    @cached_property
    def form(self) -> tuple[str, StructuredOutputs] | None:
        """The form of the answer, a forced call of a tool included, and the field that asks for it.

        Raises:
            ApiError: see `wanted_form` and `ToolUse`.
        """
        if self.tool_use.forced:
            return "tools", self.tool_use.form()
        wanted = self.wanted_form()
        if wanted is not None and self.tool_use.names:
            message = f"with {wanted[0]} the answer cannot be a call of a tool; set tool_choice to none or required"
            raise ApiError(400, message, param="tool_choice", code="invalid_value")
        return wanted

    @property
    def free(self) -> bool:
        """Whether the answer may be any text of its own, such as a remembered one."""
        return self.form is None and not self.continue_final_message and not self.tool_use.names

    def _max_tokens(self, limits: ServerLimits) -> int:
        return min(self.max_completion_tokens or self.max_tokens or limits.default_max_tokens, limits.max_tokens)

    def _check_continuation(self) -> None:
        if not self.continue_final_message:
            return
        if self.add_generation_prompt is not False:
            message = "continue_final_message needs add_generation_prompt to be false"
            raise ApiError(400, message, param="add_generation_prompt", code="invalid_value")
        last = self.messages[-1]
        if not isinstance(last, AssistantMessage) or not isinstance(last.content, str) or not last.content.strip():
            message = "continue_final_message goes on with an assistant's message of text; let one be the last"
            raise ApiError(400, message, param="messages", code="invalid_value")
        if self.forced_answer is not None:
            message = "forced_answer is a whole answer; leave continue_final_message out"
            raise ApiError(400, message, param="forced_answer", code="invalid_value")

    def template(self) -> dict[str, bool]:
        return self.chat_template_kwargs.model_dump(exclude_none=True) if self.chat_template_kwargs else {}

    def text_length(self) -> int:
        """Characters of all text, to refuse hopelessly long prompts before tokenising them."""
        plain = sum(len(message.content) for message in self.messages if isinstance(message.content, str))
        return plain + sum(len(part.text) for part in self._parts() if isinstance(part, TextPart))

    def has_remote_images(self) -> bool:
        return any(isinstance(part, ImagePart) and part.url[:5].lower() != "data:" for part in self._parts())

    def _parts(self) -> Iterator[TextPart | ImagePart | RefusalPart]:
        for message in self.messages:
            if isinstance(message.content, list):
                yield from message.content

    def _unserved(self) -> Iterator[tuple[str, str]]:
        if any(kind != "text" for kind in self.modalities or ()):
            yield "modalities", "answers are text only"
        yield from unserved(self.model_extra or {})
