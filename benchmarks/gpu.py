"""Memory and speed of the full-size model on a CUDA device, with random weights made there.

    PYTHONPATH=. python3 -m benchmarks.gpu --json out.json

Nothing is read from or written to disk but the result. The weights are random, so the words mean nothing; memory and
speed depend on sizes alone. Measured greedy, with one image and one short question a row: transformers' `generate`
on our model class, given tensors; and the local engine, given pictures and messages, as `fourfold serve` runs it.
`--layout tiny` on a CPU checks the script itself.
"""

import argparse
import gc
import importlib.metadata
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast, set_seed

from benchmarks.layouts import layout
from fourfold.assistant.model import IMAGE_TOKEN, MiniGPTv2Config, MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.prompts.chat import load_template

if TYPE_CHECKING:
    from fourfold.serving.engine.engine import Engine

TEXT_TOKENS = 32  # about what one short question takes with its marks
MIB = 1024**2


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def build(config: MiniGPTv2Config, device: torch.device, dtype: torch.dtype) -> MiniGPTv2ForConditionalGeneration:
    """The model with random weights, made on the device."""
    set_seed(0)
    with device, default_dtype(dtype):
        return MiniGPTv2ForConditionalGeneration(config).eval()


def quantise_language_model(model: MiniGPTv2ForConditionalGeneration, device: torch.device) -> int:
    """Put the language model's linear layers into NF4, one at a time; tower, projector and head stay as they are.

    Returns:
        How many layers were replaced.
    """
    import bitsandbytes as bnb

    found = [
        (parent, name, child)
        for parent in model.model.language_model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]
    for parent, name, child in found:
        weight = child.weight.data
        small = bnb.nn.Linear4bit(
            child.in_features,
            child.out_features,
            bias=False,
            compute_dtype=weight.dtype,
            quant_type="nf4",
            compress_statistics=True,
            device="meta",
        )
        small.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True).to(
            device
        )
        setattr(parent, name, small)
    del found
    return sum(isinstance(module, bnb.nn.Linear4bit) for module in model.modules())


class Clock:
    """Wall-clock seconds of work that the device has really finished, and the memory it took."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def time(self, work: Callable[[], Any]) -> float:
        self.sync()
        start = time.perf_counter()
        work()
        self.sync()
        return time.perf_counter() - start

    def held_mib(self) -> float | None:
        return round(torch.cuda.memory_allocated() / MIB, 1) if self.cuda else None

    def peak_mib(self) -> float | None:
        return round(torch.cuda.max_memory_allocated() / MIB, 1) if self.cuda else None

    def reset_peak(self) -> None:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()


def inputs_for(config: MiniGPTv2Config, batch: int, like: torch.Tensor) -> dict[str, torch.Tensor]:
    """A batch of one image and `TEXT_TOKENS` text tokens a row, on the device and in the dtype of `like`."""
    device = like.device
    text = torch.randint(3, 31990, (batch, TEXT_TOKENS), device=device)
    image = torch.full((batch, config.image_seq_length), config.image_token_id, device=device)
    input_ids = torch.cat([text[:, :8], image, text[:, 8:]], dim=1)
    size = config.vision_config.image_size
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values": torch.randn(batch, 3, size, size, device=device, dtype=like.dtype),
    }


def measure(
    model: MiniGPTv2ForConditionalGeneration, clock: Clock, batch: int, new_tokens: int, repeats: int
) -> dict[str, Any]:
    """Seconds to the first token, tokens a second after it, and the memory at the peak."""
    inputs = inputs_for(model.config, batch, like=model.model.projector.weight)

    def generate(count: int) -> None:
        # A fixed number of tokens: random weights must not end a row early.
        out = model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)
        assert out.shape[1] == inputs["input_ids"].shape[1] + count

    generate(3)  # kernels are chosen and memory is reserved outside the measurement
    clock.reset_peak()
    images = [clock.time(lambda: model.model.encode_images(inputs["pixel_values"])) for _ in range(repeats)]
    first = [clock.time(lambda: generate(1)) for _ in range(repeats)]
    whole = [clock.time(lambda: generate(new_tokens + 1)) for _ in range(repeats)]
    decode = statistics.median(whole) - statistics.median(first)
    return {
        "batch": batch,
        "prompt_tokens_per_row": inputs["input_ids"].shape[1],
        "new_tokens_per_row": new_tokens + 1,
        "image_tower_s": statistics.median(images),
        "time_to_first_token_s": statistics.median(first),
        "decode_tokens_per_s": batch * new_tokens / decode,
        "decode_ms_per_step": 1000 * decode / new_tokens,
        "requests_per_s": batch / statistics.median(whole),
        "peak_memory_mib": clock.peak_mib(),
        "all_runs_s": {"image_tower": images, "first": first, "whole": whole},
    }


def make_processor(config: MiniGPTv2Config) -> MiniGPTv2Processor:
    """A processor whose vocabulary means nothing: a word a token, and the ids of Llama-2's special ones."""
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 32000)} | {IMAGE_TOKEN: 32000}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        additional_special_tokens=[IMAGE_TOKEN],
    )
    size = config.vision_config.image_size
    return MiniGPTv2Processor(
        image_processor=CLIPImageProcessorPil(
            size={"height": size, "width": size}, do_center_crop=False, resample=3, do_convert_rgb=True
        ),
        tokenizer=tokenizer,
        num_image_tokens=config.image_seq_length,
        chat_template=load_template("minigpt_v2"),
    )


def measure_engine(engine: "Engine", clock: Clock, batch: int, new_tokens: int, repeats: int) -> dict[str, Any]:
    """So many requests at once, each with a picture of its own: nothing is in the engine's caches."""
    from fourfold.serving.engine.engine import Request, Sampling

    noise = np.random.default_rng(batch)
    question = " ".join(f"w{i}" for i in noise.integers(3, 31999, TEXT_TOKENS - 10))

    def requests() -> list[Request]:
        pictures = [Image.fromarray(noise.integers(0, 255, (480, 640, 3), dtype=np.uint8)) for _ in range(batch)]
        contents = [[{"type": "image", "image": p}, {"type": "text", "text": question}] for p in pictures]
        return [Request([{"role": "user", "content": c}], Sampling(max_tokens=new_tokens + 1)) for c in contents]

    engine.generate(requests())
    clock.reset_peak()
    runs: list[dict[str, float]] = []
    for _ in range(repeats):
        prepared = requests()
        start = time.perf_counter()
        completions = engine.generate(prepared)
        wall = time.perf_counter() - start
        firsts = [sum(c.timings[stage] for stage in ("preprocess", "queue", "vision", "prefill")) for c in completions]
        runs.append(
            {
                "wall_s": wall,
                "tokens": sum(c.completion_tokens for c in completions),
                "first_token_s": statistics.median(firsts),
                "last_first_token_s": max(firsts),
                "decode_s": statistics.median(c.timings["decode"] for c in completions),
            }
        )
    middle = sorted(runs, key=lambda run: run["wall_s"])[len(runs) // 2]
    return {
        "batch": batch,
        "prompt_tokens_per_row": completions[0].prompt_tokens,
        "time_to_first_token_s": middle["first_token_s"],
        "slowest_first_token_s": middle["last_first_token_s"],
        "output_tokens_per_s": middle["tokens"] / middle["wall_s"],
        "decode_tokens_per_s_per_row": new_tokens / middle["decode_s"],
        "requests_per_s": batch / middle["wall_s"],
        "peak_memory_mib": clock.peak_mib(),
        "all_runs": runs,
    }


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("torch", "transformers", "bitsandbytes"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def save(result: dict[str, Any], path: Path | None) -> None:
    """Write what there is so far: a run that is cut short keeps its numbers."""
    if path is not None:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(result, indent=1))
        part.replace(path)


def run_engine(
    model: MiniGPTv2ForConditionalGeneration,
    config: MiniGPTv2Config,
    clock: Clock,
    options: argparse.Namespace,
    start: float,
) -> list[dict[str, Any]]:
    from fourfold.serving.engine.engine import Engine

    runs: list[dict[str, Any]] = []
    batches = [int(b) for b in options.batches.split(",")]
    with Engine(model, make_processor(config), "random", max_rows=max(batches)) as engine:
        for batch in batches:
            if time.perf_counter() - start > options.budget:
                runs.append({"batch": batch, "skipped": "the time was up"})
                continue
            try:
                runs.append(measure_engine(engine, clock, batch, options.new_tokens, options.repeats))
            except Exception as error:  # the other numbers must not be lost
                runs.append({"batch": batch, "skipped": f"{type(error).__name__}: {error}"})
            print("engine", {k: v for k, v in runs[-1].items() if k != "all_runs"}, flush=True)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--layout", choices=("7b", "tiny"), default="7b")
    parser.add_argument("--modes", default="fp16,nf4", help="of fp16, bf16, fp32, nf4; in this order")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--new-tokens", type=int, default=64, help="after the first one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=float, default=200.0, help="seconds after which nothing new is begun")
    options = parser.parse_args()

    start = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and options.layout == "7b":
        sys.exit("benchmarks.gpu: there is no CUDA device; --layout tiny checks the script on a CPU")
    clock = Clock(device)
    config = layout(options.layout)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu",
        "layout": options.layout,
        "versions": versions(),
        "image_tokens": config.image_seq_length,
        "attention": None,
        "modes": {},
    }
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "nf4": torch.float16}
    for mode in options.modes.split(","):
        mode_result: dict[str, Any] = {"runs": []}
        result["modes"][mode] = mode_result
        if mode == "nf4" and result["versions"]["bitsandbytes"] is None:
            mode_result["skipped"] = "bitsandbytes is not installed"
            print(f"{mode}: skipped, {mode_result['skipped']}", flush=True)
            save(result, options.json)
            continue
        config = layout(options.layout)  # a fresh one: the engine changes the last mode's
        model = build(config, device, dtypes[mode])
        result["attention"] = model.config.text_config._attn_implementation
        result["parameters"] = result.get("parameters") or sum(p.numel() for p in model.parameters())
        if mode == "nf4":
            try:
                mode_result["quantised_layers"] = quantise_language_model(model, device)
            except Exception as error:  # a library without kernels for this device must not cost the other numbers
                mode_result["skipped"] = f"{type(error).__name__}: {error}"
                print(f"{mode}: skipped, {mode_result['skipped']}", flush=True)
                save(result, options.json)
                continue
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        mode_result["weights_mib"] = clock.held_mib()
        for batch in (int(b) for b in options.batches.split(",")):
            if time.perf_counter() - start > options.budget:
                mode_result["runs"].append({"batch": batch, "skipped": "the time was up"})
                continue
            try:
                run = measure(model, clock, batch, options.new_tokens, options.repeats)
            except torch.OutOfMemoryError as error:
                run = {"batch": batch, "skipped": f"out of memory: {str(error).splitlines()[0]}"}
            mode_result["runs"].append(run)
            print(mode, {k: v for k, v in run.items() if k != "all_runs_s"}, flush=True)
            save(result, options.json)
        mode_result["engine"] = run_engine(model, config, clock, options, start)
        save(result, options.json)
        del model
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    result["wall_s"] = time.perf_counter() - start
    save(result, options.json)
    print(json.dumps(result if options.json is None else {"wall_s": result["wall_s"], "written": str(options.json)}))


if __name__ == "__main__":
    main()
