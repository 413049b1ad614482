"""The model as it is trained: the frozen parts, the projector and the adapter, and the loss of a batch."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.assistant.model.bf16 import has_fast_bf16
from fourfold.assistant.training.packing import Batch
from fourfold.assistant.training.precision import halve
from fourfold.assistant.training.preference import Preference
from fourfold.assistant.training.recipe import LoraSettings


@dataclass
class Loss:
    """Of one batch.

    Attributes:
        value: the weighted mean over answer tokens, distilled where the batch says so, and the preference term, to go
            down on.
        tokens: cross-entropy of each answer token, detached, in the order of `Batch.targets`.
    """

    value: torch.Tensor
    tokens: torch.Tensor


class TrainableModel(nn.Module):
    """Frozen tower and language model, trainable LoRA adapter and (unless it is to stay) projector.

    On a processor that is fast in half precision the frozen matrices of the language model are rounded to bfloat16;
    on a GPU autocast does the like. All that is trained stays in float32.

    Args:
        model: in float32; it is changed.
        lora: the adapter; rank 0 for none.
        preference: what is learnt from rejected answers; None for nothing.
        projector: whether the projector learns.
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
        # Kept out of the module tree: its parameters are the language model's already.
        self._adapter: list[PeftModel] = []
        language_model = model.model.language_model
        if lora.rank:
            depth = model.config.text_config.num_hidden_layers
            config = LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=list(lora.targets),
                layers_to_transform=list(range(round(lora.first * depth), round(lora.last * depth))),
                layers_pattern="layers",
            )
            self._adapter.append(get_peft_model(language_model, config))
        if model.device.type == "cpu" and has_fast_bf16(model.device):
            halve(language_model.layers)
        model.model.projector.requires_grad_(projector)
        if projector and model.model.vision_block is not None:
            model.model.vision_block.project_in.requires_grad_(True)
            model.model.vision_block.project_out.requires_grad_(True)
        # A new adapter adds nothing, so with these the model is what it was before training.
        self._first = self._copied()

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters: "projector" (with the linear layers of a vision block) and "lora"."""
        named = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        return {
            "projector": [parameter for name, parameter in named if ".lora_" not in name],
            "lora": [parameter for name, parameter in named if ".lora_" in name],
        }

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
        """(batch, length, text width) last hidden states.

        Args:
            batch: packed samples.
            features: (batch, grid width², vision width), one image a sample.
        """
        inner = self.model.model
        visual = inner.project_features(features.to(inner.projector.weight.dtype))
        embeds = inner.embed(batch.ids, visual)
        return inner.language_model(
            inputs_embeds=embeds, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state

    def forward(self, batch: Batch, features: torch.Tensor) -> Loss:
        """The loss of a batch; logits are taken at answers only, since the head is a fifth of a small model."""
        distilled = batch.distilled.nonzero().squeeze(1)
        before = self._before(batch, features, distilled) if len(distilled) else None
        logits = self._logits(batch, features)
        tokens = nn.functional.cross_entropy(logits, batch.targets, reduction="none")
        learnt = tokens
        if before is not None:
            soft = nn.functional.cross_entropy(logits[distilled], before, reduction="none")
            mixed = torch.lerp(tokens[distilled], soft, batch.distilled[distilled])
            learnt = tokens.index_put((distilled,), mixed)
        value = (learnt * batch.weights).sum() / batch.weights.sum()
        if self.preference is not None and len(batch.pairs):
            value = value + self.preference.loss(tokens, batch)
        return Loss(value, tokens.detach())

    def _logits(self, batch: Batch, features: torch.Tensor) -> torch.Tensor:
        return self.model.lm_head(self.hidden(batch, features)[batch.rows, batch.columns]).float()

    @torch.no_grad()
    def _before(self, batch: Batch, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(targets, vocabulary) probabilities before training, from the samples that have such targets."""
        samples, rows = batch.rows[targets].unique(return_inverse=True)
        part = replace(
            batch,
            ids=batch.ids[samples],
            positions=batch.positions[samples],
            mask=batch.mask[samples],
            rows=rows,
            columns=batch.columns[targets],
        )
        now = self._copied()
        self.load_trained(self._first)
        try:
            return self._logits(part, features[samples]).softmax(dim=-1)
        finally:
            self.load_trained(now)

    def _copied(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.trained().items()}

    def save_adapter(self, directory: Path) -> None:
        """Write `adapter_model.safetensors` (float16) and `adapter_config.json`; nothing where there is no adapter."""
        for adapter in self._adapter:
            from safetensors.torch import save_file

            # Not by PEFT's own collecting function: it passes over layers that `halve` has replaced.
            named = self.model.model.language_model.named_parameters()
            tensors = {
                f"base_model.model.{name.replace('.default.', '.')}": p.detach().half().cpu().contiguous()
                for name, p in named
                if ".lora_" in name
            }
            save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
            config = adapter.peft_config["default"]
            config.base_model_name_or_path = None
            config.inference_mode = True
            config.save_pretrained(directory)
            config.inference_mode = False
