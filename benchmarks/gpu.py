"""Memory and speed of the full-size model on a CUDA device, with random weights made there.

    PYTHONPATH=. python3 -m benchmarks.gpu --json out.json

Nothing is read from or written to disk but the result. The weights are random, so the words mean nothing; memory and
speed depend on sizes alone. Measured greedy, with one image and one short question a row: transformers' `generate`
on our model class, given tensors; and the local engine, given pictures and messages, as `fourfold serve` runs it.
`--layout tiny` on a CPU checks the script itself.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast, set_seed

from benchmarks.conversation import STAGES
from benchmarks.limits import processor, versions
from benchmarks.memory import layout
from benchmarks.questions import question
from fourfold.assistant.files import write_text
from fourfold.assistant.model import IMAGE_TOKEN, MiniGPTv2Config, MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.prompts.chat import load_template
from fourfold.serving.engine.engine import Completion, Engine, Request, Sampling

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "nf4": torch.float16}
TEXT_TOKENS = 32  # about what one short question takes with its marks
MIB = 1024**2


def build(config: MiniGPTv2Config, device: torch.device, dtype: torch.dtype) -> MiniGPTv2ForConditionalGeneration:
    """The model with random weights, made on the device."""
    set_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return MiniGPTv2ForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)


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
        shape, weight = (child.in_features, child.out_features), child.weight.data
        small = bnb.nn.Linear4bit(*shape, bias=False, compute_dtype=weight.dtype, quant_type="nf4", device="meta")
        packed = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
        small.weight = packed.to(device)
        setattr(parent, name, small)
    return len(found)


class Clock:
    """Wall-clock seconds of work that the device has really finished, and the memory it took."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def time(self, work: Callable[[], Any]) -> float:
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def held_mib(self) -> float | None:
        return round(torch.cuda.memory_allocated() / MIB, 1) if self.cuda else None

    def peak_mib(self) -> float | None:
        return round(torch.cuda.max_memory_allocated() / MIB, 1) if self.cuda else None

    def reset_peak(self) -> None:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


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


def measure_engine(engine: Engine, clock: Clock, batch: int, new_tokens: int, repeats: int) -> dict[str, Any]:
    """So many requests at once, each with a picture of its own: nothing is in the engine's caches."""
    noise = np.random.default_rng(batch)
    text = " ".join(f"w{i}" for i in noise.integers(3, 31999, TEXT_TOKENS - 10))

    def requests() -> list[Request]:
        pictures = [Image.fromarray(noise.integers(0, 255, (480, 640, 3), dtype=np.uint8)) for _ in range(batch)]
        return [Request([question(text, picture)], Sampling(max_tokens=new_tokens + 1)) for picture in pictures]

    engine.generate(requests())
    clock.reset_peak()
    runs: list[tuple[float, list[Completion]]] = []
    for _ in range(repeats):
        prepared = requests()
        start = time.perf_counter()
        completions = engine.generate(prepared)
        runs.append((time.perf_counter() - start, completions))
    wall, completions = sorted(runs, key=lambda run: run[0])[len(runs) // 2]
    firsts = [sum(c.timings[stage] for stage in STAGES) for c in completions]
    return {
        "batch": batch,
        "prompt_tokens_per_row": completions[0].prompt_tokens,
        "time_to_first_token_s": statistics.median(firsts),
        "slowest_first_token_s": max(firsts),
        "output_tokens_per_s": sum(c.completion_tokens for c in completions) / wall,
        "decode_tokens_per_s_per_row": new_tokens / statistics.median(c.timings["decode"] for c in completions),
        "requests_per_s": batch / wall,
        "peak_memory_mib": clock.peak_mib(),
        "all_runs_s": [seconds for seconds, _ in runs],
    }


class Report:
    """What there is so far: a run that is cut short keeps its figures, one that fails does not cost the others'.

    Args:
        path: where it goes; None for the standard output, at the end.
        budget: seconds after which nothing new is begun.
    """

    def __init__(self, path: Path | None, budget: float, **about: Any) -> None:
        self.result: dict[str, Any] = {**about, "modes": {}}
        self._path = path
        self._start, self._budget = time.perf_counter(), budget

    def add(self, runs: list[dict[str, Any]], title: str, batch: int, run: Callable[[], dict[str, Any]]) -> None:
        """Append what a run measured, or why it did not."""
        try:
            if time.perf_counter() - self._start > self._budget:
                raise TimeoutError("the time was up")
            runs.append(run())
        except Exception as error:
            runs.append({"batch": batch, "skipped": f"{type(error).__name__}: {error}".splitlines()[0]})
        print(title, {key: value for key, value in runs[-1].items() if key != "all_runs_s"}, flush=True)
        self.save()

    def save(self) -> None:
        self.result["wall_s"] = time.perf_counter() - self._start
        if self._path is not None:
            write_text(self._path, json.dumps(self.result, indent=1))


def measure_mode(mode: str, device: torch.device, report: Report, options: argparse.Namespace) -> None:
    """Everything in one number format."""
    found: dict[str, Any] = {"runs": [], "engine": []}
    report.result["modes"][mode] = found
    config, clock = layout(options.layout), Clock(device)
    model = build(config, device, DTYPES[mode])
    report.result["attention"] = model.config.text_config._attn_implementation
    report.result.setdefault("parameters", sum(p.numel() for p in model.parameters()))
    if mode == "nf4":
        try:
            found["quantised_layers"] = quantise_language_model(model, device)
        except Exception as error:  # a library that is absent or has no kernels here must not cost the other numbers
            found["skipped"] = f"{type(error).__name__}: {error}"
            print(f"{mode}: skipped, {found['skipped']}", flush=True)
            report.save()
            return
    gc.collect()
    torch.cuda.empty_cache()
    found["weights_mib"] = clock.held_mib()
    batches = [int(batch) for batch in options.batches.split(",")]
    effort = (options.new_tokens, options.repeats)
    for batch in batches:
        report.add(found["runs"], mode, batch, lambda batch=batch: measure(model, clock, batch, *effort))
    with Engine(model, make_processor(config), "random", max_num_seqs=max(batches)) as engine:
        for batch in batches:
            run = lambda batch=batch: measure_engine(engine, clock, batch, *effort)  # noqa: E731
            report.add(found["engine"], f"{mode} engine", batch, run)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--layout", choices=("7b", "tiny"), default="7b")
    parser.add_argument("--modes", default="fp16,nf4", help=f"of {', '.join(DTYPES)}; in this order")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--new-tokens", type=int, default=64, help="after the first one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=float, default=200.0, help="seconds after which nothing new is begun")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and options.layout == "7b":
        sys.exit("benchmarks.gpu: there is no CUDA device; --layout tiny checks the script on a CPU")
    report = Report(
        options.json,
        options.budget,
        device=torch.cuda.get_device_name() if device.type == "cuda" else processor()["processor"],
        layout=options.layout,
        versions=versions("torch", "transformers", "bitsandbytes"),
        image_tokens=layout(options.layout).image_seq_length,
    )
    for mode in options.modes.split(","):
        measure_mode(mode, device, report, options)
        gc.collect()
        torch.cuda.empty_cache()
    report.save()
    if options.json is None:
        print(json.dumps(report.result))


if __name__ == "__main__":
    main()
