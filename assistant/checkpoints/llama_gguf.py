"""A LLaMA and its tokenizer out of a GGUF file."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, PreTrainedTokenizerFast

from fourfold.assistant.checkpoints.damage import check_sizes, told_as_damage
from fourfold.prompts.errors import UserError

_LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_PARTS = {"token_embd": "embed_tokens", "output_norm": "norm"}
# GGUF's types of token: 1 is an ordinary one, 3 a control token (`<|im_end|>`), which text never merges into.
_CONTROL = 3


class GGUFFile:
    """Metadata and float32 weights of a GGUF file with a LLaMA whose head is tied to its embedding.

    Args:
        path: the file.

    Raises:
        UserError: the file holds another architecture or another kind of tokenizer.
    """

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.name, self._path = path.name, path
        with told_as_damage(path):
            self._reader = GGUFReader(path)
        if (architecture := self._value("general.architecture")) != "llama":
            raise UserError(f"{self.name} holds a {str(architecture)[:40]!r}, not a LLaMA")

    def _value(self, key: str) -> Any:
        with told_as_damage(self._path):
            field = self._reader.get_field(key)
            if field is None:
                raise UserError(f"{self.name} does not say {key}")
            return field.contents()

    def config(self) -> LlamaConfig:
        with told_as_damage(self._path):
            made = LlamaConfig(
                vocab_size=len(self._value("tokenizer.ggml.tokens")),
                hidden_size=self._value("llama.embedding_length"),
                intermediate_size=self._value("llama.feed_forward_length"),
                num_hidden_layers=self._value("llama.block_count"),
                num_attention_heads=self._value("llama.attention.head_count"),
                num_key_value_heads=self._value("llama.attention.head_count_kv"),
                max_position_embeddings=self._value("llama.context_length"),
                # Stored as float32, so that 1e-5 reads as 9.999999747378752e-06.
                rms_norm_eps=round(self._value("llama.attention.layer_norm_rms_epsilon"), 9),
                rope_parameters={"rope_type": "default", "rope_theta": self._value("llama.rope.freq_base")},
                tie_word_embeddings=True,
            )
            check_sizes(made.to_dict(), self._path)
            return made

    def weights(self) -> dict[str, torch.Tensor]:
        """Float32 weights under the names of transformers' `LlamaModel`.

        Raises:
            UserError: there is a tensor that such a model has no place for.
        """
        from gguf import dequantize

        with told_as_damage(self._path):
            heads = {
                "attn_q": self._value("llama.attention.head_count"),
                "attn_k": self._value("llama.attention.head_count_kv"),
            }
            weights = {}
            for tensor in self._reader.tensors:
                matrix = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
                block, _, rest = tensor.name.removeprefix("blk.").partition(".")
                if tensor.name.startswith("blk.") and rest.removesuffix(".weight") in _LAYER_PARTS:
                    part = rest.removesuffix(".weight")
                    key = f"layers.{block}.{_LAYER_PARTS[part]}.weight"
                    if part in heads:
                        matrix = _unpermute(matrix, heads[part])
                elif tensor.name.removesuffix(".weight") in _TOP_PARTS:
                    key = f"{_TOP_PARTS[tensor.name.removesuffix('.weight')]}.weight"
                else:
                    raise UserError(f"{self.name} has a tensor {tensor.name[:60]!r} that a tied LLaMA has no place for")
                weights[key] = matrix
            return weights

    def tokenizer(self, renamed: dict[str, str]) -> PreTrainedTokenizerFast:
        """Byte-level BPE with every digit a token of its own, as SmolLM's files mean it (`tokenizer.ggml.pre`).

        Args:
            renamed: control tokens that get another name, so that no embedding has to be added.

        Raises:
            UserError: the file's tokenizer is of another kind, or a token to rename is not one of its control tokens.
        """
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        with told_as_damage(self._path):
            kind = (self._value("tokenizer.ggml.model"), self._value("tokenizer.ggml.pre"))
            if kind != ("gpt2", "smollm"):
                raise UserError(f"{self.name} has a tokenizer of kind {str(kind)[:60]}, not SmolLM's byte-level BPE")
            tokens = self._value("tokenizer.ggml.tokens")
            control = [i for i, kind in enumerate(self._value("tokenizer.ggml.token_type")) if kind == _CONTROL]
            if unknown := sorted(set(renamed) - {tokens[i] for i in control}):
                raise UserError(f"{self.name} has no control token {unknown[0]!r} to rename")
            for i in control:
                tokens[i] = renamed.get(tokens[i], tokens[i])
            merges = [tuple(merge.split(" ")) for merge in self._value("tokenizer.ggml.merges")]
            core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
            core.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            )
            core.decoder = decoders.ByteLevel()
            core.add_special_tokens([AddedToken(tokens[i], special=True, normalized=False) for i in control])
            special = {
                name: tokens[self._value(f"tokenizer.ggml.{key}_token_id")]
                for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"))
            }
            return PreTrainedTokenizerFast(
                tokenizer_object=core,
                **special,
                # The file pads with the end-of-turn token; a trainer that hides padding would then never learn to stop.
                pad_token=special["unk_token"],
                padding_side="left",
                model_max_length=self._value("llama.context_length"),
                clean_up_tokenization_spaces=False,
            )


def _unpermute(matrix: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo GGUF's order of rotary rows.

    GGUF rotates neighbours (rows 0 and 1 of a head), transformers rotates halves (rows 0 and head width / 2); the
    converter to GGUF therefore interleaves the halves (llama.cpp, `convert_hf_to_gguf.py`, `LlamaModel.permute`).

    Args:
        matrix: (heads * head width, width).
        heads: heads of queries or of keys.
    """
    rows, width = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)
