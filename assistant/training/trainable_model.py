"""The model as it is trained: the frozen parts, the projector and the adapter, and the loss of a batch."""

import copy
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from fourfold.assistant.checkpoints.resolve import BASE_MODEL, resolve_model
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.model.bf16 import has_fast_bf16
from fourfold.assistant.training.bf16_lora import freeze_in_bf16
from fourfold.assistant.training.packing import Batch
from fourfold.assistant.training.preference import Preference
from fourfold.assistant.training.recipe import LoraSettings, Recipe
from fourfold.prompts.errors import UserError


def load_base(recipe: Recipe, base: str | None = None) -> tuple[MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor]:
    """Model (float32) and processor of the recipe's base, or of `base` in its place.

    A recipe that asks for another image size, number of blocks or shape of the fold has that variant of the default
    model assembled in the cache first.

    Raises:
        UserError: the checkpoint cannot be had, or a variant is asked for of another model than the untrained default.
    """
    directory = _variant(recipe, base or recipe.base) or resolve_model(base or recipe.base)
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
    if recipe.vision_llm_block is not None:
        from fourfold.assistant.training.vision_llm_block import add_vision_llm_block

        add_vision_llm_block(model, recipe.vision_llm_block)
    return model, AutoProcessor.from_pretrained(directory, trust_remote_code=False)


def _variant(recipe: Recipe, base: str) -> Path | None:
    sizes = {"image_size": recipe.image_size, "blocks": recipe.blocks, "fold_shape": recipe.fold_shape}
    changes: dict[str, Any] = {name: value for name, value in sizes.items() if value is not None}
    if not changes:
        return None
    if base != BASE_MODEL:
        raise UserError(f"{', '.join(changes)}: the recipe asks for a variant of {BASE_MODEL}, and its base is {base}")
    from fourfold.assistant.checkpoints.cache import cache_directory
    from fourfold.assistant.checkpoints.mini import assemble

    digest = hashlib.blake2b(json.dumps(changes, sort_keys=True).encode(), digest_size=6).hexdigest()
    directory = cache_directory() / "variants" / digest
    if not directory.exists():
        assemble(directory, bridge=None, **changes)
    return directory


def _has_fast_bf16_states(device: torch.device) -> bool:
    """Processors are slow with what lies between matrix products in bfloat16, GPUs from Ampere on twice as fast."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@dataclass
class Loss:
    """Of one batch."""

    # the weighted mean over answer tokens, distilled where the batch says so, and the preference term, to go down on
    value: torch.Tensor
    tokens: torch.Tensor  # cross-entropy of each answer token, detached, in the order of `Batch.targets`


class TrainableModel(nn.Module):
    """Frozen tower and language model, trainable LoRA adapter and (unless it is to stay) projector.

    Where bfloat16 is fast the frozen matrices of the language model are rounded to it, and on a GPU its hidden states
    too. All that is trained stays in float32.

    The model comes in float32 and is changed. `preference` is what is learnt from rejected answers.
    """

    def __init__(
        self,
        model: MiniGPTv2ForConditionalGeneration,
        lora: LoraSettings,
        preference: Preference | None = None,
        projector: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.preference = preference
        model.requires_grad_(False)
        self._adapter_config: LoraConfig | None = None
        language_model = model.model.language_model
        if lora.rank:
            depth = model.config.text_config.num_hidden_layers
            self._adapter_config = LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=list(lora.targets),
                layers_to_transform=list(range(round(lora.first * depth), round(lora.last * depth))),
                layers_pattern="layers",
            )
            get_peft_model(language_model, self._adapter_config)  # which puts its layers into the language model
        self._bf16_states = _has_fast_bf16_states(model.device)
        if self._bf16_states or (model.device.type == "cpu" and has_fast_bf16(model.device)):
            freeze_in_bf16(language_model.layers)
        if self._bf16_states:  # norms give what their weights are; word embeddings stay, the start is made of them
            for part in (language_model.layers, language_model.norm):
                for parameter in part.parameters():
                    if not parameter.requires_grad:
                        parameter.data = parameter.data.to(torch.bfloat16)
        for name, parameter in model.named_parameters():
            if name.startswith(("model.projector.", "model.vision_llm_block.project_")):
                parameter.requires_grad_(projector)
        # A new adapter adds nothing, so with these the model is what it was before training.
        self._first = self._copied()

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters: "projector" (with the linear layers of a vision block) and "lora"."""
        named = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        return {
            "projector": [parameter for name, parameter in named if ".lora_" not in name],
            "lora": [parameter for name, parameter in named if ".lora_" in name],
        }

    def trained_parameters(self) -> list[nn.Parameter]:
        """Those of `trained`."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def trained(self) -> dict[str, torch.Tensor]:
        """Trainable parameters by name, not copied."""
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def load_trained(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put values of `trained` back.

        Raises:
            ValueError: names differ.
        """
        mine = self.trained()
        if set(mine) != set(tensors):
            raise ValueError("the saved parameters are not those of this recipe")
        for name, tensor in tensors.items():
            mine[name].copy_(tensor)

    def hidden(self, batch: Batch, features: torch.Tensor) -> torch.Tensor:
        """(batch, length, text width) last hidden states; features are (images, grid width², vision width)."""
        embeds = self.embed(batch.ids, features)
        mask = batch.mask
        if self._bf16_states:  # as it is added to the scores, which every layer would else make of it anew
            mask = torch.zeros_like(mask, dtype=embeds.dtype).masked_fill_(~mask, -torch.inf)
        return self.model.model.language_model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state

    def embed(self, ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(batch, length, text width) embeddings of tokens, in the dtype of hidden states, with the images in them."""
        inner = self.model.model
        with self.autocast():
            visual = inner.project_features(features.to(inner.projector.weight.dtype)).flatten(0, 1)
        embeds = inner.embed(ids, None)
        if self._bf16_states:
            embeds = embeds.to(torch.bfloat16)
        # `inner.embed` puts them there too, but waits for the GPU, in its backward pass as well.
        is_visual = (ids == inner.config.image_token_id).flatten()
        complete = is_visual.sum() == len(visual)
        if complete.is_cuda:
            torch._assert_async(complete)
        else:  # where it is not always there
            torch._assert(complete, "the placeholders are not as many as the visual tokens")
        places = is_visual.to(torch.uint8).sort(descending=True, stable=True).indices[: len(visual)]
        length = ids.shape[1]
        return embeds.index_put((places // length, places % length), visual.to(embeds.dtype))

    def autocast(self) -> torch.autocast:
        """Under which the parts that stay in float32, projector and head, take and give bfloat16 where layers do."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self._bf16_states)

    def forward(self, batch: Batch, features: torch.Tensor) -> Loss:
        """The loss of a batch; logits are taken at answers only, since the head is a fifth of a small model."""
        distilled = batch.distilled
        before = self._before(batch, features, distilled) if len(distilled) else None
        logits = self._logits(batch, features)
        tokens = nn.functional.cross_entropy(logits, batch.targets, reduction="none")
        learnt = tokens
        if before is not None:
            soft = nn.functional.cross_entropy(logits[distilled], before, reduction="none")
            mixed = torch.lerp(tokens[distilled], soft, batch.kd_weights[distilled])
            learnt = tokens.index_put((distilled,), mixed)
        value = (learnt * batch.weights).sum() / batch.weights.sum()
        if self.preference is not None and len(batch.pairs):
            value = value + self.preference.loss(tokens, batch)
        return Loss(value, tokens.detach())

    def _logits(self, batch: Batch, features: torch.Tensor) -> torch.Tensor:
        hidden = self.hidden(batch, features)[batch.rows, batch.columns]
        with self.autocast():
            return self.model.lm_head(hidden).float()

    @torch.no_grad()
    def _before(self, batch: Batch, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(targets, vocabulary) probabilities before training, from the samples that have such targets."""
        samples, rows = batch.rows[targets].unique(return_inverse=True)
        theirs = torch.isin(torch.arange(len(batch.images), device=rows.device), samples)
        part = replace(
            batch,
            ids=batch.ids[samples],
            positions=batch.positions[samples],
            groups=batch.groups[samples],
            images=batch.images[samples],
            rows=rows,
            columns=batch.columns[targets],
        )
        now = self._copied()
        self.load_trained(self._first)
        try:
            return self._logits(part, features[theirs.repeat_interleave(batch.images)]).softmax(dim=-1)
        finally:
            self.load_trained(now)

    def _copied(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.trained().items()}

    def save_adapter(self, directory: Path) -> None:
        """Write `adapter_model.safetensors` (float16) and `adapter_config.json`; nothing where there is no adapter."""
        if self._adapter_config is None:
            return
        # Not by PEFT's own collecting function: it passes over layers that `freeze_in_bf16` has replaced.
        tensors = {
            f"base_model.model.{name.replace('.default.', '.')}": p.detach().half().cpu().contiguous()
            for name, p in self.model.model.language_model.named_parameters()
            if ".lora_" in name
        }
        save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
        config = copy.copy(self._adapter_config)
        config.base_model_name_or_path, config.inference_mode = None, True
        config.save_pretrained(directory)
