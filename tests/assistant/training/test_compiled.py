"""On a CPU: hidden states in bfloat16, as on a GPU, and layers compiled without a code generator."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.training import compiled, trainable_model
from fourfold.assistant.training.compiled import compile_if_faster
from fourfold.assistant.training.data import Sample
from fourfold.assistant.training.data.sample import ImageRef
from fourfold.assistant.training.data.scene_tasks import SCENE_SORTS
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.assistant.training.features import FeatureStore
from fourfold.assistant.training.packing import Packer, collate
from fourfold.assistant.training.recipe import LoraSettings, read_recipe
from fourfold.assistant.training.trainable_model import TrainableModel
from fourfold.assistant.training.trainer import Trainer
from tests.tiny import tiny_model, tiny_processor


def _trainable(monkeypatch, bf16=True):
    monkeypatch.setattr(trainable_model, "_has_fast_bf16_states", lambda device: bf16)
    monkeypatch.setattr(trainable_model, "has_fast_bf16", lambda device: bf16)
    model = tiny_model(vocab_size=len(tiny_processor().tokenizer))
    # Two linear layers of seven, one in each half of a layer: tracing is what takes the time here.
    trainable = TrainableModel(model, LoraSettings(rank=4, alpha=8, targets=("v_proj", "down_proj"))).train()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return trainable


def _batches(trainable, sorts=("existence", "count", "refer")):
    """One of each number of turns, so of several lengths and sizes."""
    processor = tiny_processor()
    packer, store, found = Packer(processor), FeatureStore(trainable.model, processor), []
    for number, size in enumerate((3, 4, 2), start=1):
        images = [ImageRef(f"c{row}", scene=make_scene(f"c{row}")) for row in range(size)]
        turns = [[turn for sort in sorts[:number] for turn in SCENE_SORTS[sort](image.scene)] for image in images]
        samples = [Sample((image,), tuple(some)) for image, some in zip(images, turns, strict=True)]
        batch = collate([packer.pack(sample) for sample in samples], packer.padding_id)
        found.append((batch, store.get(images)))
    assert len({batch.ids.shape[1] for batch, _ in found}) == 3
    return found


def _learn(trainable, item):
    trainable.zero_grad()
    loss = trainable(*item).value
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in trainable.trained_parameters()])


def test_hidden_states_in_bf16_are_near_those_in_float32(monkeypatch):
    exact, near = (_trainable(monkeypatch, bf16) for bf16 in (False, True))
    for item in _batches(exact):
        assert exact.hidden(*item).dtype == torch.float32 and near.hidden(*item).dtype == torch.bfloat16
        (loss, gradients), (near_loss, near_gradients) = _learn(exact, item), _learn(near, item)
        assert near_loss == pytest.approx(loss, rel=0.01)
        assert torch.cosine_similarity(gradients, near_gradients, dim=0) > 0.99
    assert {parameter.dtype for parameter in near.trained_parameters()} == {torch.float32}


def test_images_lie_where_the_model_itself_puts_them(monkeypatch):
    trainable = _trainable(monkeypatch, bf16=False)
    for batch, features in _batches(trainable):
        inner = trainable.model.model
        expected = inner.embed(batch.ids, inner.project_features(features.float()))
        assert torch.equal(trainable.embed(batch.ids, features), expected)


def test_compiled_layers_learn_the_same_by_one_graph_for_all_lengths(monkeypatch):
    trainable = _trainable(monkeypatch)
    batches = _batches(trainable)
    before = [_learn(trainable, item) for item in batches]
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    for layer in trainable.model.model.language_model.layers:
        monkeypatch.setattr(layer, "compile", partial(layer.compile, backend=counter))
    times = iter([2.0, 1.0])
    monkeypatch.setattr(compiled, "_milliseconds", lambda *arguments: next(times))
    told = compile_if_faster(trainable, batches[:2])
    assert told["compiled"], told
    with torch.compiler.set_stance("eager_on_recompile"):
        after = [_learn(trainable, item) for item in batches]  # the third has lengths that were not tried
    assert counter.frame_count == 1
    for (loss, gradients), (same_loss, same_gradients) in zip(before, after, strict=True):
        assert same_loss == pytest.approx(loss, rel=0.005)
        assert torch.cosine_similarity(gradients, same_gradients, dim=0) > 0.99
    torch._dynamo.reset()


def _refuse(graph, inputs):
    raise RuntimeError("no compiler here")


def _wrong(graph, inputs):
    return lambda *arguments: tuple(0.5 * out for out in graph(*arguments))


@pytest.mark.parametrize(
    ("backend", "times", "reason"),
    [
        (_refuse, [2.0], "no compiler here"),
        (_wrong, [2.0, 1.0], "differ"),
        ("eager", [2.0, 3.0], "not faster"),
    ],
)
def test_what_does_not_compile_well_stays_as_it_was(monkeypatch, backend, times, reason):
    trainable = _trainable(monkeypatch)
    batches = _batches(trainable)[:1]
    before = _learn(trainable, batches[0])
    for layer in trainable.model.model.language_model.layers:
        monkeypatch.setattr(layer, "compile", partial(layer.compile, backend=backend))
    remaining = iter(times)
    monkeypatch.setattr(compiled, "_milliseconds", lambda *arguments: next(remaining))
    told = compile_if_faster(trainable, batches)
    assert not told["compiled"] and reason in told["not_compiled"]
    after = _learn(trainable, batches[0])
    assert after[0] == before[0] and torch.equal(after[1], before[1])
    torch._dynamo.reset()


def test_compiling_that_hangs_is_given_up(monkeypatch):
    import time

    def hang(graph, inputs):
        time.sleep(30)
        return graph

    trainable = _trainable(monkeypatch)
    monkeypatch.setattr(compiled, "_MOST_SECONDS", 1.0)
    for layer in trainable.model.model.language_model.layers:
        monkeypatch.setattr(layer, "compile", partial(layer.compile, backend=hang))
    told = compile_if_faster(trainable, _batches(trainable)[:1])
    assert not told["compiled"] and "more than 1 s" in told["not_compiled"]
    torch._dynamo.reset()


def test_layers_that_fail_in_training_are_not_compiled_any_more(tiny_checkpoint, tmp_path):
    recipe = read_recipe(Path(trainable_model.__file__).parent / "recipes" / "tiny.yaml")
    recipe = replace(recipe, start="random", stages=(replace(recipe.stages[1], steps=2),))
    model = MiniGPTv2ForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    told = []
    trainer = Trainer(recipe, model, MiniGPTv2Processor.from_pretrained(tiny_checkpoint), tmp_path, report=told.append)
    for layer in model.model.language_model.layers:
        layer.compile(backend=_refuse)
    trainer._is_compiled = True  # as on a GPU, had they been right when they were tried
    assert trainer.run() and trainer.step == 2
    assert ["no compiler here" in line["not_compiled"] for line in told if "not_compiled" in line] == [True]
    torch._dynamo.reset()
