"""A conversation to what the model reads: tokens, and images known by what they show."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from fourfold.prompts.errors import UserError, first_line
from fourfold.serving.engine.cache import PromptKey, image_digest
from fourfold.serving.engine.prompt.processor import Processor

Messages = list[dict[str, Any]]
# Of characters: values of a tool's arguments may hold them, and no tokenizer takes one. As many stay as there were, so
# that spans keep their places.
_HALVES = re.compile("[\ud800-\udfff]")


class PromptImage:
    """An image of a prompt; resized and normalised when first needed.

    Args:
        pixels: does that, see `Processor`.
    """

    def __init__(self, image: Image.Image, pixels: Callable[[Image.Image], np.ndarray]) -> None:
        self.digest = image_digest(image)
        self._image, self._pixels = image, pixels

    @cached_property
    def pixel_values(self) -> np.ndarray:
        """(1, 3, image size, image size), float32."""
        return self._pixels(self._image)


@dataclass(frozen=True)
class Prompt:
    """What the model reads.

    Attributes:
        ids: tokens; at each place of a visual token stands the placeholder's id.
        keys: what the prefix cache compares: as ids, with the image's digest at visual tokens.
        images: in the order of their places.
    """

    ids: list[int]
    keys: list[PromptKey]
    images: list[PromptImage]


class PromptBuilder:
    """Turns messages into prompts. Thread-safe.

    Args:
        context: tokens that prompt and answer may have together.
        end_ids: tokens that end an answer.
    """

    def __init__(self, processor: Processor, context: int, end_ids: frozenset[int]) -> None:
        self.processor, self.context, self.end_ids = processor, context, end_ids

    def prompt(
        self,
        messages: Messages,
        template: Mapping[str, Any] | None = None,
        known: dict[int, PromptImage] | None = None,
    ) -> Prompt:
        """The prompt of a conversation that waits for an answer; `messages` and `template` as in `Request`.

        `known` keeps images by their `id` from one conversation about them to the next.

        Raises:
            UserError: the conversation is malformed, or leaves no room for an answer in the context.
        """
        return self._prompt(self.tokens(messages, template), self._images(messages, known))

    def tokens(self, messages: Messages, template: Mapping[str, Any] | None = None) -> list[int]:
        """Tokens of that prompt, however many.

        Raises:
            UserError: the conversation is malformed.
        """
        images = len(images_of(messages))
        opened = bool((template or {}).get("add_generation_prompt", True))
        text = self._expand(self._render(messages, template or {}, add_generation_prompt=opened)[0], images)
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    def candidates(
        self,
        messages: Messages,
        texts: Sequence[str],
        template: Mapping[str, Any] | None = None,
        known: dict[int, PromptImage] | None = None,
    ) -> list[tuple[Prompt, int]]:
        """For each text the conversation with it as the answer, and the position of the answer's first token.

        The answer is tokenised where it stands, as in training, since tokens may differ at its seam; what the template
        puts behind an answer does not count.

        Raises:
            UserError: as `prompt`, or a candidate without a token.
        """
        images = self._images(messages, known)
        return [self._candidate(messages, images, text, template or {}) for text in texts]

    def answer_tokens(self, messages: Messages, text: str, template: Mapping[str, Any] | None = None) -> list[int]:
        """Tokens of an answer to a conversation, with the one that ends it.

        Raises:
            UserError: as `candidates`.
        """
        ((prompt, first),) = self.candidates(messages, [text], template)
        return [*prompt.ids[first:], *sorted(self.end_ids)[:1]]

    def _images(self, messages: Messages, known: dict[int, PromptImage] | None) -> list[PromptImage]:
        known = {} if known is None else known
        for image in images_of(messages):
            if id(image) not in known:
                known[id(image)] = PromptImage(image, self.processor.pixels)
        return [known[id(image)] for image in images_of(messages)]

    def _candidate(
        self, messages: Messages, images: list[PromptImage], text: str, template: Mapping[str, Any]
    ) -> tuple[Prompt, int]:
        answered = [*messages, {"role": "assistant", "content": text}]
        rendered, spans = self._render(answered, template, add_generation_prompt=False)
        expanded = self._expand(rendered, len(images))
        first, end = (place + len(expanded) - len(rendered) for place in spans[-1])
        encoded = self.processor.tokenizer(expanded, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        places = [place for place, (left, right) in enumerate(offsets) if left < end and right > first]
        while places and ids[places[-1]] in self.end_ids:
            places.pop()
        if not places:
            raise UserError(f"the candidate {text!r} has no tokens; give it text")
        return self._prompt(ids[: places[-1] + 1], images), places[0]

    def _render(
        self, messages: Messages, template: Mapping[str, Any], *, add_generation_prompt: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        """The conversation as text, with one placeholder an image, and where in it the assistant's answers stand."""
        variables = {**template, "add_generation_prompt": add_generation_prompt}
        try:
            text, spans = self.processor.template.render(messages, **variables)
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template refuses the conversation: {first_line(error)}") from None
        return _HALVES.sub("\N{REPLACEMENT CHARACTER}", text), spans

    def _expand(self, text: str, images: int) -> str:
        token = self.processor.image_token
        if (found := text.count(token)) != images:
            raise UserError(f"the chat template made room for {found} images, the messages bring {images}")
        return text.replace(token, token * self.processor.num_image_tokens)

    def _prompt(self, ids: list[int], images: list[PromptImage]) -> Prompt:
        if len(ids) >= self.context:
            raise UserError(
                f"the conversation is {len(ids)} tokens long, but the model reads at most {self.context} together with "
                "its answer; shorten it or send fewer images"
            )
        keys: list[PromptKey] = list(ids)
        size = self.processor.num_image_tokens
        places = (place for place, token in enumerate(ids) if token == self.processor.image_token_id)
        for index, place in enumerate(places):
            keys[place] = images[index // size].digest
        return Prompt(ids, keys, images)


def images_of(messages: Messages) -> list[Image.Image]:
    """The images of a conversation, in order.

    Raises:
        UserError: the conversation is empty or a message is malformed.
    """
    if not messages:
        raise UserError("the conversation is empty; send at least one message")
    images = []
    for message in messages:
        content = message.get("content")
        if not isinstance(message.get("role"), str) or not isinstance(content, str | list | tuple | None):
            raise UserError("a message needs a role and a content of text or parts")
        for part in content if isinstance(content, list | tuple) else ():
            match part:
                case {"type": "image", "image": Image.Image() as image}:
                    images.append(image)
                case {"type": "text", "text": str()}:
                    pass
                case _:
                    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                    raise UserError(f"a message has a part of type {kind!r}; parts are images and texts")
    return images
