"""A conversation about a 12-megapixel photo: time to the first token, where it goes, and a second question."""

import time
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.questions import SHORT, gone_on, photo, question
from benchmarks.speed.limits import jpeg_decode_seconds, work_of
from fourfold.assistant.images import load_image_bytes
from fourfold.serving.engine.engine import Completion, Engine, Request, Sampling

STAGES = ("preprocess", "queue", "vision", "prefill")


def conversation(model: Path, rounds: int, matmul: float) -> dict[str, Figure]:
    """Figures in seconds by name: `first`, `follow_up`, and the stages of the first.

    Args:
        model: checkpoint directory.
        rounds: conversations, each about another photo.
        matmul: float32 matrix products of this machine in GFLOP/s.
    """
    figures = {name: Figure("s") for name in ("first", "follow_up", *STAGES)}
    data = photo()
    with Engine.load(model) as engine:
        _talk(engine, data, 0)  # what is done once, at first use
        for number in range(1, rounds + 1):
            opened, first, second = _talk(engine, data, number)
            for stage in STAGES:
                figures[stage].runs.append(first.timings[stage] + (opened if stage == "preprocess" else 0))
            figures["first"].runs.append(opened + first.timings["first_token"])
            figures["follow_up"].runs.append(second.timings["first_token"])
    work, at = work_of(model), f"its products at {matmul:.0f} GFLOP/s (float32)"
    limits = {
        "preprocess": (min(jpeg_decode_seconds(data) for _ in range(3)), "libjpeg alone, at an eighth of the size"),
        "vision": (work.picture_flops / matmul / 1e9, at),
        "prefill": (work.prompt_flops * first.prompt_tokens / matmul / 1e9, at),
    }
    limits["first"] = (sum(seconds for seconds, _ in limits.values()), "the three limits below together")
    for name, limit in limits.items():
        figures[name].limit, figures[name].limit_is = limit
    return figures


def _talk(engine: Engine, data: bytes, number: int) -> tuple[float, Completion, Completion]:
    """Two questions about a photo from the file's bytes on: seconds of opening it, and both answers."""
    started = time.perf_counter()
    image = load_image_bytes(data, side=engine.image_size)
    opened = time.perf_counter() - started
    image.putpixel((0, 0), (number % 256, number // 256 % 256, 1))  # a picture that no cache knows
    messages = [question(SHORT, image)]
    first = engine.generate([Request(messages, Sampling(max_tokens=16))])[0]
    second = engine.generate([Request(gone_on(messages, first.text), Sampling(max_tokens=16))])[0]
    assert second.cached_tokens > 0
    return opened, first, second
