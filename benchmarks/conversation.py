"""A conversation about a 12-megapixel photo: time to the first token, where it goes, and a second question."""

import time
from pathlib import Path

from benchmarks.figures import Figure, seconds
from benchmarks.limits import jpeg_decode_seconds
from benchmarks.questions import SHORT, gone_on, photo, picture, question
from fourfold.assistant.images import load_image_bytes
from fourfold.serving.engine.engine import Completion, Engine, Request, Sampling

STAGES = ("preprocess", "queue", "vision", "prefill")


def conversation(model: Path, rounds: int, matmul: float) -> dict[str, Figure]:
    """Figures in seconds by name: `first`, `follow_up`, the stages of the first, and evaluation's samples a second.

    Args:
        model: checkpoint directory.
        rounds: conversations, each about another photo.
        matmul: float32 matrix products of this machine in GFLOP/s.
    """
    figures = {name: Figure("s") for name in ("first", "follow_up", *STAGES)}
    figures["evaluation"] = Figure("samples/s")
    data = photo()
    with Engine.load(model) as engine:
        _talk(engine, data, 0)  # what is done once, at first use
        for number in range(1, rounds + 1):
            opened, first, second = _talk(engine, data, number)
            for stage in STAGES:
                figures[stage].runs.append(first.timings[stage] + (opened if stage == "preprocess" else 0))
            figures["first"].runs.append(opened + first.timings["first_token"])
            figures["follow_up"].runs.append(second.timings["first_token"])
            figures["evaluation"].runs.append(_evaluate(engine))
        at = f"its products at {matmul:.0f} GFLOP/s (float32)"
        language_model = engine.model_runner.model.model.language_model
        read = 2 * sum(weight.numel() for weight in language_model.layers.parameters()) * first.prompt_tokens
        limits = {
            "preprocess": (min(jpeg_decode_seconds(data) for _ in range(3)), "libjpeg alone, at an eighth of the size"),
            "vision": (vision_flops(engine) / matmul / 1e9, at),
            "prefill": (read / matmul / 1e9, at),
        }
    limits["first"] = (sum(seconds for seconds, _ in limits.values()), "the three limits below together")
    for name, limit in limits.items():
        figures[name].limit, figures[name].limit_is = limit
    return figures


def vision_flops(engine: Engine) -> float:
    """Of one image: twice the tower's weights for every patch, and attention's own products."""
    model, patches = engine.model_runner.model, engine.model_runner.patches + 1
    tower, config = model.model.vision_tower, model.config.vision_config
    # Weights in bfloat16 are buffers.
    weights = [w for w in (*tower.parameters(), *tower.buffers()) if w.dim() > 1 and w.is_floating_point()]
    products = 2 * patches * sum(weight.numel() for weight in weights)
    return products + config.num_hidden_layers * 4 * patches**2 * config.hidden_size


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


def _evaluate(engine: Engine) -> float:
    """Samples a second of 16 questions given to the engine all at once, as `fourfold eval` does."""
    requests = [Request([question(SHORT, picture())], Sampling(max_tokens=8)) for _ in range(16)]
    return len(requests) / seconds(lambda: engine.generate(requests))
