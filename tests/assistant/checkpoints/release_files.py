"""Random checkpoints in the exact layout of MiniGPT-v2's release, tiny: what `fourfold convert` reads."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2 as spm

IMAGE_SIZE = 112  # 8 x 8 patches of 14 pixels, of a tower that learnt positions for 4 x 4
WIDTH, MLP, BLOCKS, PATCH, LEARNT_GRID = 176, 48, 3, 14, 4  # two heads of 88
HIDDEN, INTERMEDIATE, LAYERS, HEADS, RANK, ALPHA = 64, 96, 2, 4, 8, 16

# Id = position. Every piece longer than a character is the merge of two pieces, the earlier the better.
MERGES = (
    "▁▁", "IN", "ST", "INST", "▁[", "Im", "Img", "</", "▁<", "▁</", "in", "th", "he", "▁a", "▁d", "og", "▁dog",
    "▁c", "at", "▁cat", "▁w", "ha", "▁wha", "▁what", "▁i", "▁is", "v", "vq", "vqa", "ye", "yes", "▁yes", "▁it",
)  # fmt: skip
CHARACTERS = "▁abcdefghijklmnopqrstuwxyzINSTmgBCDEFG[]<>/{}?.,0123456789"


def pieces() -> list[str]:
    """The tiny vocabulary in the order of ids: specials, bytes, merges, characters."""
    singles = [c for c in dict.fromkeys(CHARACTERS) if c not in MERGES]
    return ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *MERGES, *singles]


def write_tokenizer(path: Path) -> None:
    """A sentencepiece model with Llama's settings and a vocabulary one can follow by hand."""
    proto = spm.ModelProto()
    proto.trainer_spec.model_type = spm.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    kinds = spm.ModelProto.SentencePiece
    for index, piece in enumerate(pieces()):
        kind = kinds.NORMAL
        if index == 0:
            kind = kinds.UNKNOWN
        elif index < 3:
            kind = kinds.CONTROL
        elif index < 259:
            kind = kinds.BYTE
        proto.pieces.add(piece=piece, score=0.0 if index < 259 else -float(index - 259), type=kind)
    path.write_bytes(proto.SerializeToString())


@dataclass
class Release:
    """The three sources, as tensors and, once written, as files."""

    trained: dict[str, Any]
    vision: dict[str, torch.Tensor]
    llama: dict[str, torch.Tensor]
    llama_config: dict[str, Any]
    directory: Path

    @property
    def checkpoint_path(self) -> Path:
        return self.directory / "checkpoint_stage3.pth"

    @property
    def vision_path(self) -> Path:
        return self.directory / "eva_vit_g.pth"

    @property
    def llama_path(self) -> Path:
        return self.directory / "llama"

    def paths(self) -> dict[str, Path]:
        """Arguments of `convert`."""
        return {"checkpoint": self.checkpoint_path, "llama": self.llama_path, "vision": self.vision_path}

    def write(self, llama_format: str = "safetensors") -> "Release":
        """Write the files; `llama_format` is safetensors, or bin for two pickled shards with an index."""
        self.llama_path.mkdir(parents=True, exist_ok=True)
        torch.save(self.trained, self.checkpoint_path)
        torch.save(self.vision, self.vision_path)
        (self.llama_path / "config.json").write_text(json.dumps(self.llama_config))
        write_tokenizer(self.llama_path / "tokenizer.model")
        if llama_format == "safetensors":
            save_file(self.llama, self.llama_path / "model.safetensors", metadata={"format": "pt"})
        else:
            names = sorted(self.llama)
            weight_map = {}
            for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
                file = f"pytorch_model-{number:05d}-of-00002.bin"
                torch.save({name: self.llama[name] for name in part}, self.llama_path / file)
                weight_map |= dict.fromkeys(part, file)
            index = {"metadata": {}, "weight_map": weight_map}
            (self.llama_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        return self


def make_release(
    directory: Path, seed: int = 0, *, new_peft: bool = False, buffers: bool = True, heads: int = HEADS
) -> Release:
    """Random tensors under the release's names.

    Args:
        directory: where `write` will put the files.
        seed: of the numbers.
        new_peft: `lora_A.default.weight` instead of peft 0.2's `lora_A.weight`.
        buffers: with the rotary frequencies that old versions of transformers saved.
        heads: of the language model.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 0.2, around: float = 0.0) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * scale + around

    vision = {
        "cls_token": random(1, 1, WIDTH),
        "pos_embed": random(1, 1 + LEARNT_GRID**2, WIDTH),
        "patch_embed.proj.weight": random(WIDTH, 3, PATCH, PATCH, scale=0.05),
        "patch_embed.proj.bias": random(WIDTH),
    }
    for block in range(BLOCKS):
        vision |= {
            f"blocks.{block}.norm1.weight": random(WIDTH, around=1.0),
            f"blocks.{block}.norm1.bias": random(WIDTH),
            f"blocks.{block}.attn.q_bias": random(WIDTH),
            f"blocks.{block}.attn.v_bias": random(WIDTH),
            f"blocks.{block}.attn.qkv.weight": random(3 * WIDTH, WIDTH, scale=0.1),
            f"blocks.{block}.attn.proj.weight": random(WIDTH, WIDTH, scale=0.1),
            f"blocks.{block}.attn.proj.bias": random(WIDTH),
            f"blocks.{block}.norm2.weight": random(WIDTH, around=1.0),
            f"blocks.{block}.norm2.bias": random(WIDTH),
            f"blocks.{block}.mlp.fc1.weight": random(MLP, WIDTH, scale=0.1),
            f"blocks.{block}.mlp.fc1.bias": random(MLP),
            f"blocks.{block}.mlp.fc2.weight": random(WIDTH, MLP, scale=0.1),
            f"blocks.{block}.mlp.fc2.bias": random(WIDTH),
        }

    vocabulary = len(pieces())
    llama = {"model.embed_tokens.weight": random(vocabulary, HIDDEN, scale=0.5)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        llama |= {f"{prefix}.self_attn.{m}_proj.weight": random(HIDDEN, HIDDEN) for m in "qkvo"}
        llama |= {
            f"{prefix}.mlp.gate_proj.weight": random(INTERMEDIATE, HIDDEN),
            f"{prefix}.mlp.up_proj.weight": random(INTERMEDIATE, HIDDEN),
            f"{prefix}.mlp.down_proj.weight": random(HIDDEN, INTERMEDIATE),
            f"{prefix}.input_layernorm.weight": random(HIDDEN, around=1.0),
            f"{prefix}.post_attention_layernorm.weight": random(HIDDEN, around=1.0),
        }
    llama |= {"model.norm.weight": random(HIDDEN, around=1.0), "lm_head.weight": random(vocabulary, HIDDEN)}

    adapter = ".default" if new_peft else ""
    peft = "llama_model.base_model.model.model"
    model = {}
    for layer in range(LAYERS):
        for target in ("q_proj", "v_proj"):
            model[f"{peft}.layers.{layer}.self_attn.{target}.lora_A{adapter}.weight"] = random(RANK, HIDDEN)
            model[f"{peft}.layers.{layer}.self_attn.{target}.lora_B{adapter}.weight"] = random(HIDDEN, RANK)
    model |= {"llama_proj.weight": random(HIDDEN, 4 * WIDTH, scale=0.05), "llama_proj.bias": random(HIDDEN)}
    if buffers:
        head = HIDDEN // heads
        inv_freq = 1.0 / (10000.0 ** (torch.arange(0, head, 2).float() / head))
        for layer in range(LAYERS):
            model[f"{peft}.layers.{layer}.self_attn.rotary_emb.inv_freq"] = inv_freq.clone()
            llama[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = inv_freq.clone()

    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }
    saved = {
        "model": model,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}}, "param_groups": []},
        "config": {"model": {"arch": "minigpt_v2", "lora_r": RANK, "lora_alpha": ALPHA}, "run": {}, "datasets": {}},
        "scaler": {"scale": 65536.0},
        "epoch": 7,
    }
    return Release(saved, vision, llama, config, directory)
