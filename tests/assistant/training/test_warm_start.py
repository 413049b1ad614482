import numpy as np
import pytest
import torch

from fourfold.assistant.grounding import Box
from fourfold.assistant.training.data.sample import ImageRef
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.assistant.training.features import FeatureStore
from fourfold.assistant.training.warm_start import (
    apart,
    closed_form_projector,
    coverage,
    discriminant_projector,
    projector_inputs,
    ridge,
    token_targets,
    word_shares,
    word_target,
)
from fourfold.prompts.errors import UserError
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


def test_a_token_of_a_square_fold_is_named_by_the_box_over_its_cell(tmp_path):
    """Words that stand only in one quarter of each picture: the token there comes out as the words, and no other."""
    model, processor = tiny_model(fold_shape="square"), tiny_processor()
    store = FeatureStore(model, processor, tmp_path)
    quarters = [Box(0, 0, 0.5, 0.5), Box(0.5, 0, 1, 0.5), Box(0, 0.5, 0.5, 1), Box(0.5, 0.5, 1, 1)]
    words = ["dog", "car", "red", "yes"]
    boxed = [(word, [box]) for word, box in zip(words, quarters, strict=True)]
    images = [(ImageRef(f"square-{n}", scene=make_scene(f"square-{n}")), boxed) for n in range(12)]
    assert closed_form_projector(model, processor.tokenizer, store, images, penalty=1e-6) == 12 * 4
    embeddings = model.get_input_embeddings().weight.detach()
    named = torch.stack([word_target(word, processor.tokenizer, embeddings) for word in words])
    visual = model.model.project_features(store.get([image for image, _ in images]).float())
    likeness = torch.nn.functional.cosine_similarity(visual[:, :, None], named, dim=-1)
    assert (likeness.argmax(-1) == torch.arange(4)).all()


def test_the_last_word_of_a_name_counts_half_and_rare_words_are_left_out():
    words = {"black": 0, "dog": 1, "red": 2}
    assert word_shares("a Black dog", words).tolist() == [0.25, 0.75, 0]
    assert word_shares("the red unicorn", words).tolist() == [0, 0, 0.25]
    assert word_shares("a unicorn", words) is None
    assert word_shares("the two of them", words) is None


def test_embeddings_set_apart_are_whitened():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(500, 6, generator=generator).double() @ torch.randn(6, 6, generator=generator).double() + 3
    found = apart(mixed, shrinkage=0.0)
    assert torch.allclose(found.T @ found / 500, torch.eye(6).double())
    # C^-1/2 and no other root: the shortest way from the centred ones to white ones, which is the polar factor.
    u, _, vh = torch.linalg.svd(mixed - mixed.mean(0), full_matrices=False)
    assert torch.allclose(found, u @ vh * 500**0.5)


def _quarters(number: int) -> list[tuple[ImageRef, list[tuple[str, list[Box]]]]]:
    """Scenes whose quarters bear a word each, the same ones everywhere."""
    boxes = [Box(0, 0, 0.5, 0.5), Box(0.5, 0, 1, 0.5), Box(0, 0.5, 0.5, 1), Box(0.5, 0.5, 1, 1)]
    named = [(word, [box]) for word, box in zip(["dog", "car", "red", "yes"], boxes, strict=True)]
    return [(ImageRef(f"quarters-{n}", scene=make_scene(f"quarters-{n}")), named) for n in range(number)]


def test_discriminants_are_those_of_linear_discriminant_analysis(tmp_path):
    """With one word a token, rarity 1 and no shrinkage: outputs are inv(C) (m - mu) times the words' places."""
    model, processor = tiny_model(fold_shape="square"), tiny_processor()
    store = FeatureStore(model, processor, tmp_path)
    images = _quarters(80)
    assert discriminant_projector(model, processor.tokenizer, store, images, shrinkage=0.0, rarity=1.0) == 80 * 4
    x = projector_inputs(model, store.get([image for image, _ in images])).double().reshape(80, 4, -1).numpy()
    flat = x.reshape(320, -1)
    differences = x.mean(0) - flat.mean(0)
    discriminants = np.linalg.pinv(np.cov(flat.T, bias=True), hermitian=True) @ differences.T  # (features, words)
    order = np.argsort(["dog", "car", "red", "yes"])
    embeddings = model.get_input_embeddings().weight.detach()
    pieces = processor.tokenizer([" car", " dog", " red", " yes"], add_special_tokens=False)["input_ids"]
    targets = torch.stack([embeddings[piece].mean(0) for piece in pieces]).double()
    expected = (flat - flat.mean(0)) @ discriminants[:, order] @ apart(targets).numpy()
    found = model.model.projector(torch.from_numpy(flat).float()).detach().double() - targets.mean(0)
    likeness = torch.nn.functional.cosine_similarity(found.flatten(), torch.from_numpy(expected).flatten(), dim=0)
    assert likeness > 0.999
    # They lie about the words' mean, as far from it as the words on average.
    away = (targets - targets.mean(0)).square().sum(1).mean()
    assert torch.allclose(found.mean(0), torch.zeros(1).double(), atol=1e-4)
    assert torch.allclose(found.square().sum(1).mean(), away, rtol=1e-3)


def test_words_come_out_apart_where_their_embeddings_are_nearly_one(tmp_path):
    model, processor = tiny_model(fold_shape="square"), tiny_processor()
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(5 * model.get_input_embeddings().weight.std())
    store = FeatureStore(model, processor, tmp_path)
    images = _quarters(12)
    discriminant_projector(model, processor.tokenizer, store, images, shrinkage=1e-6)
    embeddings = model.get_input_embeddings().weight.detach()
    named = torch.stack([word_target(name, processor.tokenizer, embeddings) for name, _ in images[0][1]])
    visual = model.model.project_features(store.get([image for image, _ in images]).float())
    likeness = torch.nn.functional.cosine_similarity(visual[:, :, None], named, dim=-1)
    assert (likeness.argmax(-1) == torch.arange(4)).all()


def test_too_few_words_are_said_clearly(tmp_path):
    model, processor = tiny_model(), tiny_processor()
    store = FeatureStore(model, processor, tmp_path)
    with pytest.raises(UserError, match="two words that name 5 boxes"):
        discriminant_projector(model, processor.tokenizer, store, _quarters(4))
