"""The option of a recipe that nothing was gained with: it must still do what was measured."""

import pytest
import torch

from fourfold.assistant.training.data.sample import ImageRef
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.assistant.training.features import FeatureStore
from fourfold.assistant.training.recipe import LoraSettings
from fourfold.assistant.training.trainable_model import TrainableModel
from fourfold.assistant.training.vision_llm_block import VisionLLMBlock, add_vision_llm_block
from fourfold.assistant.training.warm_start import projector_inputs
from fourfold.prompts.errors import UserError
from tests.tiny import tiny_model, tiny_processor


def test_it_is_a_copy_of_its_layer_between_layers_that_learn():
    model = tiny_model()
    add_vision_llm_block(model, 1)
    wanted = {name: p.clone() for name, p in model.model.language_model.layers[1].state_dict().items()}
    trainable = TrainableModel(model, LoraSettings(rank=4)).train()
    block = model.model.vision_llm_block
    assert {name: p.shape for name, p in block.layer.state_dict().items()} == {n: p.shape for n, p in wanted.items()}
    assert all(torch.equal(p, wanted[name]) for name, p in block.layer.state_dict().items())
    learns = {name for name in trainable.trained() if ".lora_" not in name}
    parts = ("model.projector", "model.vision_llm_block.project_in", "model.vision_llm_block.project_out")
    assert learns == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    with pytest.raises(UserError, match="choose 0 to 1"):
        add_vision_llm_block(tiny_model(), 2)


def test_images_go_through_it():
    plain, model = tiny_model(), tiny_model()
    add_vision_llm_block(model, 0)
    store = FeatureStore(plain, tiny_processor())
    features = store.get([ImageRef(f"v{n}", scene=make_scene(f"v{n}")) for n in range(4)])
    seen, before = projector_inputs(model, features), projector_inputs(plain, features)
    assert not torch.allclose(seen, before, atol=0.1)
    assert torch.equal(model.model.projector(seen), model.model.project_features(features.float()))


@torch.no_grad()
def test_it_is_bidirectional_and_without_positions():
    """Permuting the tokens permutes the outputs: neither order nor a causal mask enters."""
    block = VisionLLMBlock(tiny_model(), 0)
    tokens = torch.randn(1, 16, 32)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert block(torch.randn(8, 64, 32)).std() == pytest.approx(1, abs=0.2)  # as large as what goes in
    torch.testing.assert_close(block(tokens)[:, order], block(tokens[:, order]), rtol=1e-4, atol=1e-5)
