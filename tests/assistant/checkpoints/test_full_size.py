"""The 7B layout on the meta device: keys, shapes and what a conversion would need, without a byte of weights."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.memory import layout
from fourfold.assistant.checkpoints.original.parts import FOLD, ReleaseParts
from fourfold.assistant.checkpoints.original.release import (
    LORA_PREFIX,
    VisionLayout,
    read_trained_parts,
    read_vision_layout,
    require_llama,
)
from fourfold.assistant.checkpoints.original.tensor_files import Planned, Shape, TensorFiles, divide_into_shards
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration

KEYS = Path(__file__).with_name("full_size_keys.txt")
EVA_CLIP_G = VisionLayout(width=1408, mlp=6144, patch=14, blocks=40, grid=16)
RANK = 64


def llama_config() -> LlamaConfig:
    config = layout("7b").text_config
    config.vocab_size = 32000
    return config


def released_shapes() -> dict[str, Shape]:
    """What the facts say of the release's own file."""
    shapes: dict[str, Shape] = {"llama_proj.weight": (4096, 5632), "llama_proj.bias": (4096,)}
    for layer, target in itertools.product(range(32), ("q_proj", "v_proj")):
        module = f"{LORA_PREFIX}layers.{layer}.self_attn.{target}"
        shapes |= {f"{module}.lora_A.weight": (64, 4096), f"{module}.lora_B.weight": (4096, 64)}
    return shapes


def compact(shapes: dict[str, Shape]) -> list[str]:
    """One line for all keys that differ in a number only: the key with *, how many, the shape."""
    lines: dict[tuple[str, Shape], int] = {}
    for key, shape in shapes.items():
        pattern = re.sub(r"\.\d+\.", ".*.", key)
        lines[pattern, shape] = lines.get((pattern, shape), 0) + 1
    return [f"{pattern} x{count} {list(shape)}" for (pattern, shape), count in lines.items()]


@pytest.fixture(scope="module")
def sources() -> dict[str, TensorFiles]:
    with torch.device("meta"):
        llama = {key: tuple(value.shape) for key, value in LlamaForCausalLM(llama_config()).state_dict().items()}
    shapes = {"eva_vit_g.pth": EVA_CLIP_G.shapes(), "minigptv2_checkpoint.pth": released_shapes(), "llama": llama}
    return {name: TensorFiles(name, (Path(name),), found) for name, found in shapes.items()}


@pytest.fixture(scope="module")
def plan(sources: dict[str, TensorFiles]) -> dict[str, Planned]:
    """Every source is checked as in a conversion, and every tensor of the model planned."""
    vision, trained, llama = sources["eva_vit_g.pth"], sources["minigptv2_checkpoint.pth"], sources["llama"]
    assert read_vision_layout(vision) == EVA_CLIP_G
    require_llama(llama, llama_config())
    parts = read_trained_parts(trained, EVA_CLIP_G.width, llama_config(), FOLD)
    assert parts.rank == RANK
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()))
    release = ReleaseParts(trained, {}, parts, llama, vision, layout("7b"), tokenizer, ())
    assert release.scale == 0.25
    assert layout("7b").vision_config.to_dict() == EVA_CLIP_G.config(448).to_dict()
    return release.plan(merge=True)


def frozen(sources: dict[str, TensorFiles], plan: dict[str, Planned]) -> str:
    shapes = {"# the model": {key: planned.shape for key, planned in plan.items()}}
    shapes |= {f"# {name}": files.shapes for name, files in sources.items()}
    return "\n".join(line for title, keys in shapes.items() for line in (title, *compact(keys))) + "\n"


def test_keys_are_the_frozen_ones(sources: dict[str, TensorFiles], plan: dict[str, Planned]) -> None:
    assert frozen(sources, plan) == KEYS.read_text(encoding="utf-8")


def test_image_tokens_and_parameters(plan: dict[str, Planned]) -> None:
    config = layout("7b")
    assert (config.grid_width, config.image_seq_length) == (32, 256)
    assert len(plan) == 767
    with torch.device("meta"):
        model = MiniGPTv2ForConditionalGeneration(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_748_530_176


def test_conversion_needs_far_less_than_20_gb(plan: dict[str, Planned]) -> None:
    """A shard in float16, and the biggest tensor in float32 three times: read, added to, cast."""
    sizes = {name: torch.Size(planned.shape).numel() for name, planned in plan.items()}
    shards = divide_into_shards(plan, itemsize=2, limit=2_000_000_000)
    biggest_shard = max(sum(2 * sizes[name] for name in names) for names in shards)
    assert len(shards) == 8 and biggest_shard <= 2_000_000_000
    assert biggest_shard + 3 * 4 * max(sizes.values()) < 4e9
