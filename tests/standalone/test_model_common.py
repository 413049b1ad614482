"""transformers' own tests of every model, on the classes that come with a checkpoint."""

import tempfile
import unittest
from pathlib import Path
from typing import Any

import torch
from conftest import REFERENCE
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, ViTConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers_tests import load

_DIRECTORY = tempfile.TemporaryDirectory()
common = load("test_modeling_common", Path(_DIRECTORY.name))
_CONFIG = AutoConfig.from_pretrained(REFERENCE / "tiny", trust_remote_code=True)
Inner, Whole = (
    type(auto.from_config(_CONFIG, trust_remote_code=True)) for auto in (AutoModel, AutoModelForImageTextToText)
)
# By these the tests know which inputs and labels a class takes.
MODEL_MAPPING_NAMES[_CONFIG.model_type] = Inner.__name__
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[_CONFIG.model_type] = Whole.__name__
IMAGE_TOKEN, IMAGE_TOKENS = 3, 4


class TinyModel:
    """Sizes and inputs, under the names that the tests look for."""

    batch_size = 7
    seq_length = 10
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    vocab_size = 99
    image_size = 32
    is_training = True
    tower = CLIPVisionConfig
    vision_config = {  # noqa: RUF012
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": image_size,
        "patch_size": 8,
    }

    def get_config(self) -> Any:
        text = LlamaConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        vision = self.tower(**self.vision_config)
        return type(_CONFIG)(vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        ids = torch.randint(IMAGE_TOKEN + 1, self.vocab_size, (self.batch_size, self.seq_length))
        ids[:, 1 : 1 + IMAGE_TOKENS] = IMAGE_TOKEN
        pixels = torch.rand(self.batch_size, 3, self.image_size, self.image_size)
        return self.get_config(), {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)}

    prepare_config_and_inputs = prepare_config_and_inputs_for_common


class TestModel(common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (Inner, Whole)
    additional_model_inputs = ["pixel_values"]  # noqa: RUF012
    _is_composite = True

    def setUp(self) -> None:
        self.model_tester = TinyModel()

    def test_can_init_all_missing_weights(self) -> None:
        # Where a class is not transformers' own, it leaves out what CLIP's modules do for their children.
        self.model_tester.tower = ViTConfig
        super().test_can_init_all_missing_weights()

    def test_training_gradient_checkpointing(self) -> None:
        self.skipTest("the first layer that it looks at is of the frozen tower")

    test_training_gradient_checkpointing_use_reentrant_false = test_training_gradient_checkpointing
    test_training_gradient_checkpointing_use_reentrant_true = test_training_gradient_checkpointing

    def test_generation_tester_mixin_inheritance(self) -> None:
        self.skipTest("tests/generation is not in the archive")
