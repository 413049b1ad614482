"""What the stand-alone tests compare with: checkpoints that fourfold writes, and what it makes of some questions.

    python -m tests.standalone.write_reference [--mini] [DIRECTORY]

Of each checkpoint `REFERENCE/NAME.npz` has, by question, the prompt's tokens, the logits of its last position and the
greedy answer's tokens, in float32. With `--mini` the default model is among them.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor

from fourfold.assistant.checkpoints.merge import merge_adapter
from fourfold.assistant.checkpoints.original.convert import convert
from fourfold.assistant.checkpoints.resolve import DEFAULT_MODEL, resolve_model
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.serving.engine.engine import Engine
from fourfold.serving.engine.requests import Request, Sampling
from tests.assistant.checkpoints.release_files import IMAGE_SIZE, make_release
from tests.tiny import write_loud_tiny

QUESTIONS = {
    "no image": ([], "hello world"),
    "one image": ([0], "[vqa] what is the colour of the car?"),
    "another image": ([1], "[vqa] what is the colour of the car?"),
    "two images": ([0, 1], "describe this image"),
    "two images, the other way round": ([1, 0], "describe this image"),
}
"""Name to the numbers of the images and the text after them."""
MAX_TOKENS = 12


def adapter_of(checkpoint: Path, directory: Path) -> Path:
    """A PEFT adapter of the language model with random weights."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = MiniGPTv2ForConditionalGeneration.from_pretrained(checkpoint)
    targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(directory)
    return directory


def write_answers(checkpoint: Path, images: list[Image.Image], target: Path) -> None:
    """What fourfold makes of `QUESTIONS`."""
    arrays: dict[str, np.ndarray] = {}
    processor = AutoProcessor.from_pretrained(checkpoint)
    with Engine.load(checkpoint, dtype="float32", device="cpu") as engine:
        # Another than the engine's, whose attention is its own.
        model = MiniGPTv2ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
        for name, (numbers, text) in QUESTIONS.items():
            content = [{"type": "image", "image": images[number]} for number in numbers]
            messages = [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]
            request = Request(messages, Sampling(max_tokens=MAX_TOKENS))
            [answer] = engine.generate([request])
            prompt = engine.prompt_tokens(request)
            pixels = None
            if numbers:
                shown = [images[number] for number in numbers]
                pixels = processor.image_processor(images=shown, return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([prompt]), pixel_values=pixels, logits_to_keep=1).logits
            arrays |= {
                f"{name}: prompt": np.array(prompt),
                f"{name}: logits": logits[0, -1].numpy(),
                f"{name}: answer": np.array(answer.token_ids),
            }
    np.savez(target, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path, nargs="?", default=Path("out/standalone"))
    parser.add_argument("--mini", action="store_true")
    arguments = parser.parse_args()
    root: Path = arguments.directory
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    images = []
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 255, (80, 100, 3), dtype=np.uint8)
        images.append(Image.fromarray(pixels))
        images[-1].save(root / f"{seed}.png")
    tiny = write_loud_tiny(root / "tiny")
    adapter = adapter_of(tiny, root / "adapter")
    # Heads are wider than in the converter's own tests: vLLM's CPU attention has none below 32.
    release = make_release(root / "release", heads=2).write().paths()
    checkpoints = {
        "tiny": tiny,
        "square": write_loud_tiny(root / "square", image_size=96, fold_shape="square"),
        "merged": merge_adapter(tiny, adapter, root / "merged"),
        "converted": convert(**release, out=root / "converted", dtype="float32", image_size=IMAGE_SIZE).directory,
    }
    if arguments.mini:
        (root / DEFAULT_MODEL).symlink_to(resolve_model(DEFAULT_MODEL))
        checkpoints[DEFAULT_MODEL] = root / DEFAULT_MODEL
    for name, checkpoint in checkpoints.items():
        write_answers(checkpoint, images, root / f"{name}.npz")
    (root / "questions.json").write_text(json.dumps(QUESTIONS))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
