"""The release's three parts, opened, checked against each other, and turned into our model's tensors."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, LlamaConfig, PreTrainedTokenizerFast

from fourfold.assistant.checkpoints.damage import check_sizes, told_as_damage
from fourfold.assistant.checkpoints.original.llama_tokenizer import release_tokenizer
from fourfold.assistant.checkpoints.original.release import (
    LORA_ALPHA,
    LORA_TARGETS,
    TrainedParts,
    read_trained_parts,
    read_vision_layout,
    require_llama,
    unused_vision_keys,
)
from fourfold.assistant.checkpoints.original.tensor_files import (
    Planned,
    Shape,
    TensorFiles,
    open_directory,
    open_pickled,
)
from fourfold.assistant.checkpoints.positions import resize_position_embeddings
from fourfold.assistant.model import MiniGPTv2Config, MiniGPTv2ForConditionalGeneration
from fourfold.prompts.errors import UserError

FOLD = 4


@dataclass(frozen=True)
class ReleaseParts:
    """Open files that fit together, and what follows from them.

    Args:
        trained: the release's `.pth`.
        beside: what it holds beside the tensors.
        parts: where its projector and LoRA are.
        language: the LLaMA.
        vision: the image tower.
        config: of the model they make.
        tokenizer: with `<ImageHere>`.
        left_out: keys that the model has no use for.
    """

    trained: TensorFiles
    beside: Mapping[str, Any]
    parts: TrainedParts
    language: TensorFiles
    vision: TensorFiles
    config: MiniGPTv2Config
    tokenizer: PreTrainedTokenizerFast
    left_out: tuple[str, ...]

    @property
    def alpha(self) -> float:
        """LoRA's alpha: of the file's configuration, else the release's."""
        alpha = _model_settings(self.beside).get("lora_alpha", LORA_ALPHA)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
            raise UserError(f"{self.trained.paths[0]} says lora_alpha {str(alpha)[:40]!r}, which is no number above 0")
        return float(alpha)

    @property
    def scale(self) -> float:
        """By which B A counts: alpha / rank."""
        return self.alpha / self.parts.rank

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file that something is taken from."""
        files = self.trained.paths + self.vision.paths + self.language.paths
        return (*files, self.language.paths[0].parent / "tokenizer.model")

    def adapter(self) -> dict[str, torch.Tensor]:
        """The LoRA by PEFT's names for our model, in float32."""
        return {
            f"base_model.model.model.language_model.{name}": self.trained.read(key).float().clone()
            for name, key in self.parts.names.items()
            if ".lora_" in name
        }

    def plan(self, *, merge: bool) -> dict[str, Planned]:
        """How each tensor of the model comes about, in the model's order.

        Args:
            merge: add the LoRA to the weights.
        """
        with told_as_damage(self.language.paths[0].parent / "config.json"), torch.device("meta"):
            model = MiniGPTv2ForConditionalGeneration(self.config)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if self.config.tie_word_embeddings:
            del shapes["lm_head.weight"]
        make = self._plan_vision() | self._plan_language(shapes, merge)
        for kind in ("weight", "bias"):
            make[f"model.projector.{kind}"] = partial(self.trained.read, self.parts.names[f"llama_proj.{kind}"])
        if make.keys() != shapes.keys():
            raise ValueError(f"the plan and the model differ in {sorted(make.keys() ^ shapes.keys())}")
        return {name: Planned(shape, make[name]) for name, shape in shapes.items()}

    def _plan_vision(self) -> dict[str, Any]:
        read, tower, width = self.vision.read, "model.vision_tower", self.config.vision_config.hidden_size
        make: dict[str, Any] = {
            f"{tower}.embeddings.class_embedding": partial(read, "cls_token"),
            f"{tower}.embeddings.position_embedding": self._positions,
            # The release never trained the norm after the tower: it is as it was initialised.
            "model.vision_norm.weight": partial(torch.ones, width),
            "model.vision_norm.bias": partial(torch.zeros, width),
        }
        for kind in ("weight", "bias"):
            make[f"{tower}.embeddings.patch_embedding.{kind}"] = partial(read, f"patch_embed.proj.{kind}")
        for block in range(self.config.vision_config.num_hidden_layers):
            theirs, ours = f"blocks.{block}", f"{tower}.encoder.layers.{block}"
            make[f"{ours}.self_attn.qkv.weight"] = partial(read, f"{theirs}.attn.qkv.weight")
            make[f"{ours}.self_attn.qkv.bias"] = partial(self._qkv_bias, f"{theirs}.attn")
            for their_name, our_name in {
                "norm1": "layer_norm1",
                "attn.proj": "self_attn.projection",
                "norm2": "layer_norm2",
                "mlp.fc1": "mlp.fc1",
                "mlp.fc2": "mlp.fc2",
            }.items():
                for kind in ("weight", "bias"):
                    make[f"{ours}.{our_name}.{kind}"] = partial(read, f"{theirs}.{their_name}.{kind}")
        return make

    def _positions(self) -> torch.Tensor:
        table = self.vision.read("pos_embed")[0].float()
        return resize_position_embeddings(table, self.config.grid_width)[None]

    def _qkv_bias(self, attention: str) -> torch.Tensor:
        """EVA's keys have no bias."""
        q_bias, v_bias = self.vision.read(f"{attention}.q_bias"), self.vision.read(f"{attention}.v_bias")
        return torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])

    def _plan_language(self, shapes: Mapping[str, Shape], merge: bool) -> dict[str, Any]:
        layers = range(self.config.text_config.num_hidden_layers)
        adapted = {f"layers.{layer}.self_attn.{target}" for layer in layers for target in LORA_TARGETS}
        make: dict[str, Any] = {}
        for name in shapes:
            theirs = name.replace("model.language_model.", "model.")
            module = theirs.removeprefix("model.").removesuffix(".weight")
            if theirs in ("lm_head.weight", "model.embed_tokens.weight"):
                make[name] = partial(self._with_placeholder, theirs)
            elif merge and module in adapted:
                make[name] = partial(self._merged, theirs, module)
            elif name.startswith("model.language_model."):
                make[name] = partial(self.language.read, theirs)
        return make

    def _with_placeholder(self, key: str) -> torch.Tensor:
        """An embedding or head table with a row for `<ImageHere>`: a copy of `<unk>`'s.

        The embedding is never looked at, since image features take its place. In the head it must not be chosen: the
        model was never trained towards `<unk>`, so a copy of that row is as improbable as a token can be.
        """
        table = self.language.read(key)
        unk = self.tokenizer.unk_token_id
        return torch.cat([table, table[unk : unk + 1]])

    def _merged(self, key: str, module: str) -> torch.Tensor:
        """W + alpha / r · B A in float32 (Hu et al. 2021, section 4.1)."""
        down, up = (self.trained.read(self.parts.names[f"{module}.lora_{kind}.weight"]).float() for kind in "AB")
        return torch.addmm(self.language.read(key).float(), up, down, alpha=self.scale)


def open_release(checkpoint: Path, llama: Path, vision: Path, image_size: int) -> ReleaseParts:
    """Open everything and check every key and shape.

    Args:
        checkpoint: the release's `.pth`.
        llama: directory of Llama-2-7b-chat in transformers' format, with `tokenizer.model`.
        vision: LAVIS's `eva_vit_g.pth`.
        image_size: side of the square image in pixels.

    Raises:
        UserError: a file is missing or does not match.
    """
    trained, beside = open_pickled("the MiniGPT-v2 checkpoint", checkpoint)
    tower, _ = open_pickled("the image tower", vision)
    language = open_directory("the language model", llama)
    text_config = _llama_config(llama)
    require_llama(language, text_config)
    layout = read_vision_layout(tower)
    parts = read_trained_parts(trained, layout.width, text_config, FOLD)
    rank = _model_settings(beside).get("lora_r", parts.rank)
    if rank != parts.rank:
        raise UserError(f"{checkpoint} says lora_r {rank} in its configuration and holds a LoRA of rank {parts.rank}")
    tokenizer = release_tokenizer(llama / "tokenizer.model", text_config.vocab_size)
    placeholder = text_config.vocab_size
    text_config.vocab_size += 1
    try:
        config = MiniGPTv2Config(
            vision_config=layout.config(image_size),
            text_config=text_config,
            image_token_id=placeholder,
            fold=FOLD,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    rotary = [key for key in language.shapes if key.endswith("rotary_emb.inv_freq")]
    left_out = (*unused_vision_keys(tower, layout), *parts.unused, *rotary)
    return ReleaseParts(trained, beside, parts, language, tower, config, tokenizer, left_out)


def _llama_config(directory: Path) -> LlamaConfig:
    try:
        told = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        check_sizes(told, directory / "config.json")
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # of a configuration that says what no model has: almost anything
        raise UserError(f"{directory} has no usable config.json of a language model; download it again") from error
    if not isinstance(config, LlamaConfig):
        raise UserError(f"{directory} holds a {config.model_type}; MiniGPT-v2 needs Llama-2-7b-chat")
    return config


def _model_settings(beside: Mapping[str, Any]) -> Mapping[str, Any]:
    config = beside.get("config")
    model = config.get("model") if isinstance(config, Mapping) else None
    return model if isinstance(model, Mapping) else {}
