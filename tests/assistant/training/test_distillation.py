"""Learning what the model thought before training, beside or in place of the right answer."""

import pytest
import torch

from fourfold.assistant.training.data.sample import ImageRef, Sample, Turn
from fourfold.assistant.training.packing import Packer, collate
from fourfold.assistant.training.recipe import LoraSettings
from fourfold.assistant.training.trainable_model import TrainableModel
from fourfold.prompts.tasks import Task
from tests.tiny import tiny_model, tiny_processor


@pytest.fixture(scope="module")
def packer():
    return Packer(tiny_processor())


@pytest.fixture(scope="module")
def features():
    return torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))


def batch_of(packer, *distilled):
    """One sample for each, of the same two turns."""
    questions = (("[vqa] what colour is it?", "red"), ("[vqa] how many dogs are there?", "two dogs"))
    samples = [
        Sample((ImageRef("x"),), tuple(Turn(Task.VQA, *pair, kd_weight=part) for pair in questions))
        for part in distilled
    ]
    return collate([packer.pack(sample) for sample in samples], packer.padding_id)


def test_what_is_distilled_takes_the_images_of_its_own_samples(packer):
    images = (ImageRef("x"), ImageRef("y"))
    turns = [(Turn(Task.VQA, "[vqa] what colour is it?", "red", kd_weight=part),) for part in (0.0, 1.0)]
    samples = [Sample(images, turns[0]), Sample((), turns[0]), Sample(images[:1], turns[1])]
    features = torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(4))
    batch = collate([packer.pack(sample) for sample in samples], packer.padding_id)
    trainable = trainable_of(moved=True)
    with torch.no_grad():
        alone = trainable(collate([packer.pack(samples[2])], packer.padding_id), features[2:]).value
        others = trainable(collate([packer.pack(one) for one in samples[:2]], packer.padding_id), features[:2]).value
        assert torch.allclose(trainable(batch, features).value, (2 * others + alone) / 3, atol=1e-5)


def trainable_of(*, projector=True, moved=False):
    model = tiny_model(vocab_size=len(tiny_processor().tokenizer))
    trainable = TrainableModel(model, LoraSettings(rank=4, alpha=8), projector=projector)
    if moved:
        generator = torch.Generator().manual_seed(1)
        for tensor in trainable.trained().values():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
    return trainable


def log_probabilities(trainable, batch, features):
    with torch.no_grad():
        hidden = trainable.hidden(batch, features)[batch.rows, batch.columns]
        return trainable.model.lm_head(hidden).float().log_softmax(-1)


@pytest.mark.parametrize("projector", [True, False])
def test_what_is_distilled_is_the_cross_entropy_with_the_untrained_model(packer, features, projector):
    batch = batch_of(packer, 1.0, 1.0)
    first = log_probabilities(trainable_of(), batch, features)
    trainable = trainable_of(projector=projector, moved=True)
    moved = {name: tensor.clone() for name, tensor in trainable.trained().items()}
    now = log_probabilities(trainable, batch, features)
    assert (first.exp() * (first - now)).sum(-1).mean() > 1e-4  # it has moved
    expected = (-(first.exp() * now).sum(-1) * batch.weights).sum() / batch.weights.sum()
    assert torch.allclose(trainable(batch, features).value, expected, atol=1e-5)
    assert all(torch.equal(moved[name], tensor) for name, tensor in trainable.trained().items())


def test_before_the_first_step_nothing_pulls(packer, features):
    trainable = trainable_of()
    pulls = []
    for part in (1.0, 0.0):
        trainable.zero_grad()
        trainable(batch_of(packer, part, part), features).value.backward()
        pulls.append(max(float(p.grad.abs().max()) for p in trainable.parameters() if p.grad is not None))
    assert pulls[0] < 1e-4 * pulls[1]


def test_a_part_is_between_answer_and_untrained_model(packer, features):
    trainable = trainable_of(moved=True)
    with torch.no_grad():
        answer, both, before = (trainable(batch_of(packer, part, part), features).value for part in (0.0, 0.3, 1.0))
    assert torch.allclose(both, 0.7 * answer + 0.3 * before, atol=1e-5)
    assert abs(answer - before) > 1e-3


def test_each_sample_has_its_own_part(packer, features):
    trainable = trainable_of(moved=True)
    with torch.no_grad():
        mixed = trainable(batch_of(packer, 0.0, 1.0), features)
        apart = [
            trainable(batch_of(packer, part), features[row : row + 1]).value for row, part in enumerate((0.0, 1.0))
        ]
        plain = trainable(batch_of(packer, 0.0, 0.0), features)
    assert torch.allclose(mixed.value, torch.stack(apart).mean(), atol=1e-5)
    # What is reported, and what preferences are made of, stays the cross-entropy of the answers.
    assert torch.allclose(mixed.tokens, plain.tokens, atol=1e-5)
