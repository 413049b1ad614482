# Copyright 2026 the authors of fourfold
# SPDX-License-Identifier: Apache-2.0
#
# fourfold writes a copy of this file beside the weights of every checkpoint.
"""Images and text to the model's inputs."""

from typing import Any

from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import MultiModalData, ProcessingKwargs

IMAGE_TOKEN = "<ImageHere>"


class MiniGPTv2ProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Defaults of the processor's call."""

    # Chat templates hold the BOS themselves (vLLM's chat endpoint adds none), so the tokenizer must not add another.
    _defaults = {  # noqa: RUF012 (transformers' own contract)
        "text_kwargs": {"padding": False, "add_special_tokens": False, "return_mm_token_type_ids": False}
    }


class MiniGPTv2Processor(ProcessorMixin):
    """One placeholder per image in the text becomes `num_image_tokens` of them.

    It defines no `__call__` of its own: vLLM and transformers both go through the two methods below. Text that a user
    typed must come through a chat template of `prompts/`, which takes the placeholder's meaning away from typed ones.

    Args:
        image_processor: resizes (squashing to the square, no crop) and normalises.
        tokenizer: knows `image_token` as one token.
        num_image_tokens: the model's `image_seq_length`.
        chat_template: Jinja text.
        image_token: the placeholder.

    Raises:
        ValueError: the tokenizer does not know `image_token` as one token.
    """

    valid_processor_kwargs = MiniGPTv2ProcessorKwargs

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_image_tokens: int = 256,
        chat_template: str | None = None,
        image_token: str = IMAGE_TOKEN,
        **kwargs: Any,
    ) -> None:
        ids = tokenizer.encode(image_token, add_special_tokens=False)
        if len(ids) != 1:
            raise ValueError(f"the tokenizer splits {image_token!r} into {len(ids)} tokens; add it as a special token")
        self.num_image_tokens = num_image_tokens
        self.image_token = image_token
        self.image_token_id = ids[0]
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, image_inputs: BatchFeature, image_idx: int, **kwargs: Any) -> str:
        """What the placeholder of image `image_idx` becomes."""
        return self.image_token * self.num_image_tokens

    def _get_num_multimodal_tokens(
        self, image_sizes: list[tuple[int, int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """Tokens and patches of images of these (height, width) pixels: the same for all, since all are squashed."""
        if image_sizes is None:
            return MultiModalData()
        count = len(image_sizes)
        return MultiModalData(num_image_tokens=[self.num_image_tokens] * count, num_image_patches=[1] * count)


# Saving copies the file of a class that is registered so.
MiniGPTv2Processor.register_for_auto_class()
