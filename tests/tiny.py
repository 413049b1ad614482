"""A tiny random MiniGPT-v2 checkpoint, made in a second, for tests that need a model but no knowledge."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, LlamaConfig, PreTrainedTokenizerFast

from fourfold.assistant.model import IMAGE_TOKEN, MiniGPTv2Config, MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.prompts.chat import load_template

CORPUS = [
    "the quick brown fox jumps over the lazy dog. describe this image in detail. what is in the picture?",
    "[vqa] what is the colour of the car? the car is red. yes no one two three",
    "[refer] give me the location of <p>a dog</p> {<10><20><30><40>}",
    "system user assistant hello world how are you fine thanks 0123456789",
]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with ChatML's special tokens, digits one by one as in SmolLM2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", IMAGE_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        additional_special_tokens=[IMAGE_TOKEN],
    )


def tiny_config(
    vocab_size: int = 500, image_token_id: int = 3, image_size: int = 64, **overrides: Any
) -> MiniGPTv2Config:
    """64 px images in 16 px patches: 16 patches, 4 image tokens."""
    return MiniGPTv2Config(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=image_size,
            patch_size=16,
        ),
        text_config=LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,  # the smallest that vLLM's CPU attention has
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        ),
        image_token_id=image_token_id,
        **overrides,
    )


def tiny_model(seed: int = 0, **overrides: Any) -> MiniGPTv2ForConditionalGeneration:
    """A model of `tiny_config` whose random weights depend on the seed alone."""
    torch.manual_seed(seed)
    return MiniGPTv2ForConditionalGeneration(tiny_config(**overrides)).eval()


def tiny_processor(image_size: int = 64, num_image_tokens: int = 4) -> MiniGPTv2Processor:
    """The processor that goes with `tiny_config`."""
    return MiniGPTv2Processor(
        image_processor=CLIPImageProcessorPil(
            size={"height": image_size, "width": image_size}, do_center_crop=False, resample=3, do_convert_rgb=True
        ),
        tokenizer=tiny_tokenizer(),
        num_image_tokens=num_image_tokens,
        chat_template=load_template("chatml"),
    )


def save_tiny_checkpoint(directory: Path, seed: int = 0, loud: float = 1, **overrides: Any) -> Path:
    """An ordinary checkpoint directory with model and processor; `loud` scales its matrices but the embeddings."""
    config = tiny_config(**overrides)
    processor = tiny_processor(config.vision_config.image_size, config.image_seq_length)
    model = tiny_model(seed, vocab_size=len(processor.tokenizer), **overrides)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(loud)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def save_tool_checkpoint(directory: Path) -> Path:
    """A tiny checkpoint whose chat template declares tools, in the manner of Hermes and Qwen."""
    save_tiny_checkpoint(directory)
    (directory / "chat_template.jinja").write_text(TOOL_TEMPLATE)
    return directory


TOOL_TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.role == "assistant" -%}
{%- generation -%}
{{ message.content }}
{%- for call in message.tool_calls or () %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor -%}
<|im_end|>
{%- endgeneration %}
{% else -%}
{%- if message.content is string %}{{ message.content }}{% else -%}
{%- for part in message.content -%}
{{ "<ImageHere>" if part.type == "image" else part.text }}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
"""


def write_loud_tiny(directory: Path, **overrides: Any) -> Path:
    """A tiny checkpoint with weights so large that its answers depend on every token and image."""
    return save_tiny_checkpoint(directory, loud=6, **overrides)
