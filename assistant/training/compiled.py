"""The language model's layers compiled for training, where that is right and faster."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import torch

from fourfold.assistant.training.packing import Batch
from fourfold.assistant.training.trainable_model import TrainableModel

_MOST_SECONDS = 100.0  # that compiling may take
_ROUNDS = 2  # passes over the batches to time


class _TooLongError(Exception):
    pass


def compile_if_faster(trainable: TrainableModel, batches: Sequence[tuple[Batch, torch.Tensor]]) -> dict[str, Any]:
    """Compile each layer, and keep that if losses and gradients stay what they were and take less time.

    Nothing that goes wrong is raised: the layers are then as before. All have one graph, for every length and size of a
    batch; what does not suit it later should run uncompiled (`torch.compiler.set_stance("eager_on_recompile")`).

    Args:
        trainable: in training mode, without dropout, whose noise would hide a difference.
        batches: of several lengths, with their features, on the model's device.

    Returns:
        For the log: `compiled`, `eager_ms` and `compiled_ms` a pass, `compile_seconds`, and `not_compiled`, why not.
    """
    layers = trainable.model.model.language_model.layers
    before = [_pass(trainable, *item) for item in batches]
    eager = _milliseconds(trainable, batches)
    told: dict[str, Any] = {"compiled": False, "eager_ms": eager}
    began = time.monotonic()
    try:
        # Numbers that are settings, such as a scale, are no sizes that might change.
        with torch._dynamo.config.patch(specialize_float=True), _at_most(_MOST_SECONDS):
            for layer in layers:
                layer.compile(dynamic=True)
            after = [_pass(trainable, *item) for item in batches]
        told["compile_seconds"] = time.monotonic() - began
        told["compiled_ms"] = _milliseconds(trainable, batches)
        if not all(_same(*pair) for pair in zip(before, after, strict=True)):
            told["not_compiled"] = "losses or gradients differ"
        elif told["compiled_ms"] > 0.98 * eager:
            told["not_compiled"] = "not faster"
        else:
            told["compiled"] = True
    except Exception as error:  # whatever a compiler may raise: training goes on without it
        told["not_compiled"] = f"{type(error).__name__}: {error}"[:500]
    if not told["compiled"]:
        uncompile(trainable)
    trainable.zero_grad()
    return told


def uncompile(trainable: TrainableModel) -> None:
    """Run the layers as they are from now on."""
    for layer in trainable.model.model.language_model.layers:
        layer._compiled_call_impl = None


def _pass(trainable: TrainableModel, batch: Batch, features: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Loss and all gradients of a batch."""
    trainable.zero_grad()
    loss = trainable(batch, features).value
    loss.backward()
    gradients = [p.grad.flatten() for p in trainable.trained_parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(gradients)


def _same(one: tuple[float, torch.Tensor], other: tuple[float, torch.Tensor]) -> bool:
    """Up to the rounding of bfloat16."""
    close = abs(one[0] - other[0]) <= 0.02 * abs(one[0])
    alike = torch.cosine_similarity(one[1], other[1], dim=0) > 0.97
    norms = other[1].norm() / one[1].norm()
    return close and bool(alike) and 0.9 < float(norms) < 1.1


def _milliseconds(trainable: TrainableModel, batches: Sequence[tuple[Batch, torch.Tensor]]) -> float:
    """Of one pass on average."""
    began = time.monotonic()
    for _ in range(_ROUNDS):
        for item in batches:
            _pass(trainable, *item)  # which waits for the device
    return 1000 * (time.monotonic() - began) / (_ROUNDS * len(batches))


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise where the block takes longer, if this is the main thread of a system with such signals."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def over(number: int, frame: FrameType | None) -> None:
        raise _TooLongError(f"compiling took more than {seconds:.0f} s")

    handler = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)  # again and again, should somebody catch it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
