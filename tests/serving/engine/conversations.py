"""Conversations and answers that the engine's tests share."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.serving.engine.engine import Completion, Engine, Request, Sampling
from fourfold.serving.engine.model_runner import ModelRunner
from tests.tiny import save_tiny_checkpoint

Messages = list[dict[str, Any]]


def picture(number: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    """A picture that depends on the number alone."""
    noise = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(number))
    return Image.fromarray(noise.to(torch.uint8).numpy())


def user(text: str, images: Sequence[Image.Image] = ()) -> dict[str, Any]:
    """A user's turn."""
    return {"role": "user", "content": [*({"type": "image", "image": image} for image in images), part(text)]}


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def conversations() -> list[Messages]:
    """One image, another with the same words, text only, and several images over several turns."""
    return [
        [user("what is in the picture?", [picture(0)])],
        [user("what is in the picture?", [picture(1)])],
        [{"role": "system", "content": "hello"}, {"role": "user", "content": "how are you?"}],
        [
            user("the quick brown fox jumps over the lazy dog. " * 4, [picture(2), picture(3)]),
            assistant("the car is red."),
            user("what is the colour of the car?", [picture(0, (30, 90))]),
        ],
    ]


def save_lively_checkpoint(directory: Path) -> Path:
    """A tiny checkpoint whose greedy answers vary from token to token and with the image.

    Freshly initialised weights are so small that the model says its last token again and again, which would hide most
    mistakes.
    """
    save_tiny_checkpoint(directory)
    model = MiniGPTv2ForConditionalGeneration.from_pretrained(directory)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed" not in name and "lm_head" not in name:
                parameter.mul_(8)
    model.save_pretrained(directory)
    return directory


def slow_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass takes 5 ms more, so that what happens beside an answer happens while it is being made."""
    step = ModelRunner.step

    def slow(self: ModelRunner, *arguments: Any, **options: Any) -> Any:
        time.sleep(0.005)
        return step(self, *arguments, **options)

    monkeypatch.setattr(ModelRunner, "step", slow)


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Poll until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def load(checkpoint: Path, **options: Any) -> Engine:
    """An engine in the reference's number format."""
    return Engine.load(checkpoint, dtype="float32", device="cpu", **options)


def ask(engine: Engine, messages: Messages, **sampling: Any) -> Completion:
    """One answer."""
    return engine.generate([Request(messages, Sampling(**sampling))])[0]


class Reference:
    """What plain transformers does with a checkpoint, in float32."""

    def __init__(self, checkpoint: Path) -> None:
        self.model = MiniGPTv2ForConditionalGeneration.from_pretrained(checkpoint).eval()
        self.processor = MiniGPTv2Processor.from_pretrained(checkpoint)

    def inputs(self, messages: Messages) -> dict[str, torch.Tensor]:
        return self.processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )

    def greedy(self, messages: Messages, tokens: int, **options: Any) -> list[int]:
        inputs = self.inputs(messages)
        with torch.inference_mode():
            out = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False, **options)
        return out[0, inputs["input_ids"].shape[1] :].tolist()

    def logprobs(self, messages: Messages, token_ids: list[int]) -> torch.Tensor:
        """(tokens, vocabulary) log-probabilities at each token of an answer, by one uncached pass."""
        inputs = self.inputs(messages)
        ids = torch.cat([inputs["input_ids"], torch.tensor([token_ids])], dim=1)
        with torch.inference_mode():
            logits = self.model(input_ids=ids, pixel_values=inputs.get("pixel_values")).logits
        return logits[0, -len(token_ids) - 1 : -1].log_softmax(-1)

    def check_logprobs(self, messages: Messages, completion: Completion, tolerance: float) -> None:
        """The log-probabilities of an answer's tokens are those of `logprobs`."""
        assert completion.logprobs is not None
        expected = self.logprobs(messages, completion.token_ids)
        for step, entry in enumerate(completion.logprobs):
            wanted = pytest.approx(float(expected[step, entry.token_id]), abs=tolerance)
            assert entry.logprob == wanted, f"token {step}: {entry.logprob} is not {wanted}"
