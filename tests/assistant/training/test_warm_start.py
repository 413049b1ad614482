import numpy as np
import torch

from fourfold.assistant.grounding import Box
from fourfold.assistant.training.data.sample import ImageRef
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.assistant.training.features import FeatureStore
from fourfold.assistant.training.warm_start import (
    closed_form_projector,
    coverage,
    projector_inputs,
    ridge,
    token_targets,
)
from tests.tiny import tiny_model, tiny_processor


def test_ridge_is_least_squares_with_a_penalty():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 7, generator=generator).double(), torch.randn(50, 3, generator=generator).double()
    penalty = 0.3
    # The penalty as rows of the system: numpy knows nothing of ridge.
    rows = np.vstack([x.numpy(), np.sqrt(penalty * 50) * np.eye(7)])
    expected = np.linalg.lstsq(rows, np.vstack([y.numpy(), np.zeros((7, 3))]), rcond=None)[0]
    assert np.allclose(ridge(x.T @ x, x.T @ y, 50, penalty).numpy(), expected)


def test_coverage_is_the_part_of_each_cell():
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 1.0, 1.0]])
    fine = 400
    expected = []
    for x1, y1, x2, y2 in boxes.tolist():
        raster = np.zeros((fine, fine))
        raster[round(y1 * fine) : round(y2 * fine), round(x1 * fine) : round(x2 * fine)] = 1
        expected.append(raster.reshape(8, fine // 8, 4, fine // 4).mean((1, 3)).ravel())
    assert np.allclose(coverage(boxes, 8, 4).numpy(), expected, atol=1e-6)


def test_tokens_are_named_by_the_boxes_over_them():
    words = {"dog": torch.tensor([1.0, 0.0]), "sky": torch.tensor([0.0, 1.0]), "it": None}
    named = [("dog", [Box(0, 0.5, 0.5, 1)]), ("sky", [Box(0, 0, 1, 0.5)]), ("it", [Box(0, 0, 1, 1)])]
    places, targets = token_targets(named, words.__getitem__, rows=2, columns=2)
    assert places.tolist() == [0, 1, 2]
    assert targets.tolist() == [[0, 1], [0, 1], [1, 0]]


def test_the_start_brings_outputs_to_the_words_at_their_scale(tmp_path):
    model, processor = tiny_model(), tiny_processor()
    store = FeatureStore(model, processor, tmp_path)
    images = []
    for number in range(30):
        scene = make_scene(f"warm-{number}")
        # The tiny model's visual tokens are whole rows of the image.
        rows = [Box(0, item.box.y1, 1, item.box.y2) for item in scene.items]
        named = [(f"{item.colour} {item.shape}", [row]) for item, row in zip(scene.items, rows, strict=True)]
        images.append((ImageRef(f"warm-{number}", scene=scene), named))
    count = closed_form_projector(model, processor.tokenizer, store, images, penalty=1e-3)
    assert count > 30
    features = store.get([image for image, _ in images])
    visual = model.model.project_features(features.float())
    embeddings = model.get_input_embeddings().weight
    assert torch.allclose(visual.std(), embeddings.std(), rtol=0.02)
    inputs = projector_inputs(model, features)
    assert torch.allclose(model.model.projector(inputs), visual)
