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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoModelForImageTextToText, CLIPImageProcessorPil, PreTrainedTokenizerFast, set_seed

from benchmarks.figures import reason, seconds
from benchmarks.memory import layout
from benchmarks.questions import question
from benchmarks.speed.conversation import STAGES
from benchmarks.speed.limits import processor, versions
from fourfold.assistant.files import write_text
from fourfold.assistant.model import IMAGE_TOKEN, MiniGPTv2Config, MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.prompts.chat import load_template
from fourfold.serving.engine.engine import Completion, Engine, Request, Sampling
from fourfold.serving.engine.loading import Checkpoint
from fourfold.serving.engine.prompt.processor import of_transformers
from fourfold.serving.engine.torch_backend.model import TorchModel

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "nf4": torch.float16}
TEXT_TOKENS = 32  # about what one short question takes with its marks


def build(config: MiniGPTv2Config, device: torch.device, dtype: torch.dtype) -> MiniGPTv2ForConditionalGeneration:
    """The model with random weights, made on the device."""
    set_seed(0)
    with device:
        return AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()


def quantise_language_model(model: MiniGPTv2ForConditionalGeneration, device: torch.device) -> int:
    """Put the language model's linear layers into NF4, one at a time; tower, projector and head stay as they are.

    Returns:
        How many layers were replaced.
    """
    import bitsandbytes as bnb

    count = 0
    for parent in model.model.language_model.modules():
        for name, child in parent.named_children():
            if not isinstance(child, nn.Linear):
                continue
            shape, weight = (child.in_features, child.out_features), child.weight.data
            small = bnb.nn.Linear4bit(*shape, bias=False, compute_dtype=weight.dtype, quant_type="nf4", device="meta")
            packed = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
            small.weight = packed.to(device)
            setattr(parent, name, small)
            count += 1
    return count


def finished(work: Callable[[], object]) -> float:
    """Wall-clock seconds of work that the device has really done."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    return seconds(lambda: (work(), wait()))


def mib(held: int) -> float | None:
    """None on a CPU, whose memory nobody counts."""
    return round(held / 2**20, 1) if torch.cuda.is_available() else None


def reset_peak() -> None:
    if torch.cuda.is_available():
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


def measure(model: MiniGPTv2ForConditionalGeneration, batch: int, new_tokens: int, repeats: int) -> dict[str, Any]:
    """Seconds to the first token, tokens a second after it, and the memory at the peak."""
    inputs = inputs_for(model.config, batch, like=model.model.projector.weight)

    def generate(count: int) -> None:
        # A fixed number of tokens: random weights must not end a row early.
        out = model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)
        assert out.shape[1] == inputs["input_ids"].shape[1] + count

    generate(3)  # kernels are chosen and memory is reserved outside the measurement
    reset_peak()
    images = [finished(lambda: model.model.encode_images(inputs["pixel_values"])) for _ in range(repeats)]
    first = [finished(lambda: generate(1)) for _ in range(repeats)]
    whole = [finished(lambda: generate(new_tokens + 1)) for _ in range(repeats)]
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
        "peak_memory_mib": mib(torch.cuda.max_memory_allocated()),
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


def measure_engine(engine: Engine, batch: int, new_tokens: int, repeats: int) -> dict[str, Any]:
    """So many requests at once, each with a picture of its own: nothing is in the engine's caches."""
    noise = np.random.default_rng(batch)
    text = " ".join(f"w{i}" for i in noise.integers(3, 31999, TEXT_TOKENS - 10))

    def requests() -> list[Request]:
        pictures = [Image.fromarray(noise.integers(0, 255, (480, 640, 3), dtype=np.uint8)) for _ in range(batch)]
        return [Request([question(text, picture)], Sampling(max_tokens=new_tokens + 1)) for picture in pictures]

    engine.generate(requests())
    reset_peak()
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
        "peak_memory_mib": mib(torch.cuda.max_memory_allocated()),
        "all_runs_s": [seconds for seconds, _ in runs],
    }


class Report:
    """What there is so far: a run that is cut short keeps its figures, one that fails does not cost the others'.

    Args:
        path: where it goes.
        budget: seconds after which nothing new is begun.
    """

    def __init__(self, path: Path, budget: float, **about: Any) -> None:
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
            runs.append({"batch": batch, "skipped": reason(error)})
        print(title, {key: value for key, value in runs[-1].items() if key != "all_runs_s"}, flush=True)
        self.save()

    def save(self) -> None:
        self.result["wall_s"] = time.perf_counter() - self._start
        write_text(self._path, json.dumps(self.result, indent=1))


def measure_mode(mode: str, device: torch.device, report: Report, options: argparse.Namespace) -> None:
    """Everything in one number format."""
    found = report.result["modes"][mode]
    config = layout(options.layout)
    model = build(config, device, DTYPES[mode])
    report.result["attention"] = model.config.text_config._attn_implementation
    report.result.setdefault("parameters", sum(p.numel() for p in model.parameters()))
    if mode == "nf4":
        found["quantised_layers"] = quantise_language_model(model, device)
    gc.collect()
    torch.cuda.empty_cache()
    found["weights_mib"] = mib(torch.cuda.memory_allocated())
    batches = [int(batch) for batch in options.batches.split(",")]
    effort = (options.new_tokens, options.repeats)
    for batch in batches:
        report.add(found["runs"], mode, batch, partial(measure, model, batch, *effort))
    base = TorchModel(model)
    reader = of_transformers(make_processor(config))
    ends = frozenset({reader.tokenizer.eos_token_id})
    checkpoint = Checkpoint(config, config.vision_config.image_size, reader, ends, (), base, lambda: base)
    with Engine(checkpoint, "random", max_num_seqs=max(batches)) as engine:
        for batch in batches:
            report.add(found["engine"], f"{mode} engine", batch, partial(measure_engine, engine, batch, *effort))


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where the result goes")
    parser.add_argument("--layout", choices=("7b", "tiny"), default="7b")
    parser.add_argument("--modes", default="fp16,nf4", help=f"of {', '.join(DTYPES)}; in this order")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--new-tokens", type=int, default=64, help="after the first one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=float, default=200.0, help="seconds after which nothing new is begun")
    options = parser.parse_args()
    modes = options.modes.split(",")
    if unknown := sorted(set(modes) - set(DTYPES)):
        parser.error(f"no mode is called {unknown[0]!r}; there are: {', '.join(DTYPES)}")
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
    for mode in modes:
        found: dict[str, Any] = {"runs": [], "engine": []}
        report.result["modes"][mode] = found
        try:
            measure_mode(mode, device, report, options)
        except Exception as error:  # a library that is absent or has no kernels here must not cost the other numbers
            found["skipped"] = reason(error)
            print(f"{mode}: skipped, {found['skipped']}", flush=True)
        gc.collect()
        torch.cuda.empty_cache()
        report.save()


if __name__ == "__main__":
    main()
