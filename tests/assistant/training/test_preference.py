"""Rejected answers and what was said before, in packed samples; and the preference term of the loss."""

import math
from dataclasses import replace

import pytest
import torch

from fourfold.assistant.training.data.sample import ImageRef, Sample, Turn
from fourfold.assistant.training.packing import Packer, collate
from fourfold.assistant.training.preference import Preference, differences
from fourfold.assistant.training.recipe import LoraSettings
from fourfold.assistant.training.trainable_model import TrainableModel
from fourfold.prompts.tasks import Task
from tests.tiny import tiny_model, tiny_processor

IMAGE = ImageRef("x")
COLOUR = Turn(Task.VQA, "[vqa] what colour is it?", "red", rejected="blue, I think")
PLACE = Turn(Task.REFER, "[refer] the car", "{<10><20><30><40>}", rejected="{<10><20><35><40>}")
HISTORY = (("hello", "hi"), ("is there a dog?", "yes"))


@pytest.fixture(scope="module")
def packer():
    return Packer(tiny_processor())


@pytest.fixture(scope="module")
def model():
    return tiny_model(vocab_size=len(tiny_processor().tokenizer))


@pytest.fixture(scope="module")
def features():
    return torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0))


def likelihood(trainable, packer, features, question, answer, history=()):
    """log p(answer), from a sample of its own without any preference."""
    sample = Sample((IMAGE,), (Turn(Task.VQA, question, answer),), history=history)
    with torch.no_grad():
        return -trainable(collate([packer.pack(sample)], 0), features).tokens.sum()


@pytest.mark.parametrize("history", [(), HISTORY])
def test_a_pair_in_a_pack_is_as_likely_as_its_answers_apart(packer, model, features, history):
    trainable = TrainableModel(model, LoraSettings(rank=0)).eval()
    sample = Sample((IMAGE,), (COLOUR, PLACE), history=history)
    batch = collate([packer.pack(Sample((IMAGE,), (replace(PLACE, rejected=None),))), packer.pack(sample)], 0)
    with torch.no_grad():
        found = differences(trainable(batch, features.expand(2, -1, -1)).tokens, batch)
    expected = [
        likelihood(trainable, packer, features, turn.question, turn.answer, history)
        - likelihood(trainable, packer, features, turn.question, turn.rejected, history)
        for turn in (COLOUR, PLACE)
    ]
    assert torch.allclose(found, torch.stack(expected), atol=1e-3)
    assert found.abs().min() > 0.01


def test_rejected_answers_do_not_count_in_the_ordinary_loss(packer, model, features):
    trainable = TrainableModel(model, LoraSettings(rank=0)).eval()
    losses = []
    for turns in ((COLOUR, PLACE), (replace(COLOUR, rejected=None), replace(PLACE, rejected=None))):
        with torch.no_grad():
            losses.append(trainable(collate([packer.pack(Sample((IMAGE,), turns))], 0), features).value)
    assert torch.allclose(*losses, atol=1e-5)


def test_history_has_the_tokens_of_the_template_and_teaches_nothing(packer):
    packed = packer.pack(Sample((IMAGE,), (replace(COLOUR, rejected=None),), history=HISTORY))
    turns = [Turn(Task.VQA, *pair) for pair in (*HISTORY, (COLOUR.question, COLOUR.answer))]
    whole = packer.pack(Sample((IMAGE,), tuple(turns), multi_turn=True))
    assert packed.ids == whole.ids and packed.positions == whole.positions
    learnt = [token for token, weight in zip(packed.ids, packed.weights, strict=True) if weight]
    assert learnt == packer.answer("red")


def test_a_pair_cannot_stand_within_a_conversation(packer):
    with pytest.raises(ValueError, match="history"):
        packer.pack(Sample((IMAGE,), (COLOUR, PLACE), multi_turn=True))


def test_the_term_is_that_of_the_paper_and_falls_as_the_pair_is_learnt(packer, features):
    model = tiny_model(vocab_size=len(tiny_processor().tokenizer))
    trainable = TrainableModel(model, LoraSettings(rank=4, alpha=8))
    sample = Sample((IMAGE,), (COLOUR,))
    with torch.no_grad():
        batch = collate([packer.pack(sample)], 0)
        ordinary = trainable(batch, features)
        margin = float(differences(ordinary.tokens, batch)[0])
    known = collate([packer.pack(replace(sample, turns=(replace(COLOUR, margin=margin),)))], 0)
    trainable.preference = Preference(weight=0.5, beta=0.2)
    # Before the first step the model is its own reference: log 2, whatever beta is.
    assert float(trainable(known, features).value - ordinary.value) == pytest.approx(0.5 * math.log(2), abs=1e-4)
    other = replace(sample, turns=(replace(COLOUR, margin=margin - 3),))
    with torch.no_grad():
        found = trainable(collate([packer.pack(other)], 0), features).value - ordinary.value
    assert float(found) == pytest.approx(0.5 * math.log1p(math.exp(-0.2 * 3)), abs=1e-4)
    optimizer = torch.optim.AdamW([p for p in trainable.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(12):
        optimizer.zero_grad()
        trainable(known, features).value.backward()
        optimizer.step()
    with torch.no_grad():
        assert float(differences(trainable(known, features).tokens, known)[0]) > margin + 1


def test_a_projector_that_stays_is_not_trained():
    trainable = TrainableModel(tiny_model(), LoraSettings(rank=4), projector=False)
    assert not trainable.groups()["projector"] and all(".lora_" in name for name in trainable.trained())
