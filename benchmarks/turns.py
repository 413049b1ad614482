"""A conversation about a 12-megapixel photo: time to the first token, where it goes, and a second question."""

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from benchmarks.figures import Figure
from benchmarks.limits import jpeg_decode_seconds, photo

if TYPE_CHECKING:
    from fourfold.serving.engine.engine import Engine

STAGES = ("preprocess", "queue", "vision", "prefill")


def conversation(model: Path, rounds: int, matmul: float) -> dict[str, Figure]:
    """Figures in seconds by name: `first`, `follow_up`, the stages of the first, and evaluation's samples a second.

    Args:
        model: checkpoint directory.
        rounds: conversations, each about another photo.
        matmul: float32 matrix products of this machine in GFLOP/s.
    """
    from fourfold.serving.engine.engine import Engine

    names = ["first", "follow_up", *STAGES]
    figures = {name: Figure(name.replace("_", " "), "s") for name in names}
    figures["evaluation"] = Figure("evaluation, 16 questions about 16 pictures", "samples/s")
    data = photo()
    with Engine.load(model) as engine:
        _talk(engine, photo(1), 0)  # what is done once, at first use
        for number in range(1, rounds + 1):
            for name, seconds in _talk(engine, data, number).items():
                figures[name].runs.append(seconds)
            figures["evaluation"].runs.append(_evaluate(engine, number))
        decoding = min(jpeg_decode_seconds(data) for _ in range(3))
        vision = vision_flops(engine) / matmul / 1e9
        read = 2 * sum(p.numel() for p in engine._runner.model.model.language_model.layers.parameters())
        prefill = read * _prompt_tokens(engine) / matmul / 1e9
    figures["preprocess"].limit, figures["preprocess"].limit_is = decoding, "libjpeg alone, at an eighth of the size"
    figures["vision"].limit, figures["vision"].limit_is = vision, f"its products at {matmul:.0f} GFLOP/s (float32)"
    figures["prefill"].limit, figures["prefill"].limit_is = prefill, f"its products at {matmul:.0f} GFLOP/s (float32)"
    figures["first"].limit, figures["first"].limit_is = decoding + vision + prefill, "the three limits below together"
    return figures


def vision_flops(engine: "Engine") -> float:
    """Of one image: twice the tower's weights for every patch, and attention's own products."""
    tower, config = engine._runner.model.model.vision_tower, engine._runner.model.config.vision_config
    patches = engine._runner.patches + 1
    # Weights in half precision are buffers.
    weights = [w for w in (*tower.parameters(), *tower.buffers()) if w.dim() > 1 and w.is_floating_point()]
    products = 2 * patches * sum(weight.numel() for weight in weights)
    return products + config.num_hidden_layers * 4 * patches**2 * config.hidden_size


def _prompt_tokens(engine: "Engine") -> int:
    return len(engine._preparer.prompt(_question(Image.new("RGB", (8, 8)), "[vqa] what is in the picture?")).ids)


def _question(image: Image.Image, text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def _talk(engine: "Engine", data: bytes, number: int) -> dict[str, float]:
    """Seconds of a conversation of two questions, from the file's bytes on."""
    from fourfold.assistant.images import load_image_bytes
    from fourfold.serving.engine.engine import Request, Sampling

    started = time.perf_counter()
    image = load_image_bytes(data, side=engine.image_size)
    opened = time.perf_counter() - started
    image.putpixel((0, 0), (number % 256, number // 256 % 256, 1))  # a picture that no cache knows
    messages = _question(image, "[vqa] what is in the picture?")
    first = engine.generate([Request(messages, Sampling(max_tokens=16))])[0]
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "[vqa] is it red?"}]
    second = engine.generate([Request(messages, Sampling(max_tokens=16))])[0]
    assert second.cached_tokens > 0
    stages = {stage: first.timings[stage] for stage in STAGES}
    stages["preprocess"] += opened
    return {"first": opened + first.timings["first_token"], "follow_up": second.timings["first_token"], **stages}


def _evaluate(engine: "Engine", number: int) -> float:
    """Samples a second of questions given to the engine all at once, as `fourfold eval` does."""
    from fourfold.serving.engine.engine import Request, Sampling

    with Image.open(io.BytesIO(photo(1))) as opened:
        sample = opened.convert("RGB").resize((640, 480))
    requests = []
    for place in range(16):
        picture = sample.copy()
        picture.putpixel((0, 0), (number % 256, place, 2))
        requests.append(Request(_question(picture, "[vqa] what is in the picture?"), Sampling(max_tokens=8)))
    started = time.perf_counter()
    engine.generate(requests)
    return len(requests) / (time.perf_counter() - started)
