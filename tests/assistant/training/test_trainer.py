import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
import yaml
from safetensors.torch import load_file

import fourfold.assistant.training
from fourfold.assistant.checkpoints.lora import merge_lora
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration, MiniGPTv2Processor
from fourfold.assistant.model.bf16 import BF16Linear
from fourfold.assistant.training.bf16_lora import BF16LoraLinear
from fourfold.assistant.training.data.mixture import Mixture
from fourfold.assistant.training.data.sample import ImageRef
from fourfold.assistant.training.data.scenes import make_scene
from fourfold.assistant.training.features import FeatureStore
from fourfold.assistant.training.packing import collate
from fourfold.assistant.training.recipe import (
    LoraSettings,
    Recipe,
    Stage,
    read_recipe,
    read_variants,
    read_yaml,
    recipe_of,
)
from fourfold.assistant.training.results import plot_curve, read_log
from fourfold.assistant.training.schedule import learning_rates
from fourfold.assistant.training.trainable_model import TrainableModel
from fourfold.assistant.training.trainer import Trainer
from fourfold.assistant.training.warm_start import grounded_images
from fourfold.prompts.errors import UserError

RECIPES = Path(fourfold.assistant.training.__file__).parent / "recipes"


@pytest.fixture(scope="module")
def tiny_recipe() -> Recipe:
    return read_recipe(RECIPES / "tiny.yaml")


def _load(checkpoint):
    model = MiniGPTv2ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    return model, MiniGPTv2Processor.from_pretrained(checkpoint)


def _trainer(recipe, checkpoint, directory, evaluate=False):
    return Trainer(recipe, *_load(checkpoint), directory, evaluate=evaluate)


@pytest.fixture(scope="module")
def finished(tiny_recipe, tiny_checkpoint, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    trainer = _trainer(tiny_recipe, tiny_checkpoint, directory, evaluate=True)
    tower = {name: p.clone() for name, p in trainer.trainable.model.model.vision_tower.state_dict().items()}
    embeddings = trainer.trainable.model.get_input_embeddings().weight.clone()
    assert trainer.run()
    return trainer, directory, tower, embeddings


def test_a_run_can_start_from_discriminants(tiny_recipe, tiny_checkpoint, tmp_path):
    trainer = _trainer(replace(tiny_recipe, start="discriminants", stages=(Stage(steps=1),)), tiny_checkpoint, tmp_path)
    assert trainer.run()
    (begun,) = [line for line in read_log(tmp_path) if "closed_form_tokens" in line]
    assert begun["closed_form_images"] == tiny_recipe.mixture.scenes
    images = [image for image, _ in grounded_images(Mixture(tiny_recipe.mixture))]
    visual = trainer.trainable.model.model.project_features(trainer.store.get(images).float())
    embeddings = trainer.trainable.model.get_input_embeddings().weight
    # About the mean of the words, as far away as they; one step of the optimiser moves little.
    assert 0.5 < float((visual.std() / embeddings.std()).detach()) < 1.5


def test_twenty_steps_and_the_loss_falls(finished):
    trainer, directory, _, _ = finished
    losses = [line["loss"] for line in read_log(directory) if "loss" in line]
    assert len(losses) == 20 == trainer.step
    assert fmean(losses[-5:]) < fmean(losses[:5]) - 0.1
    figures = [line["held_out"] for line in read_log(directory) if "held_out" in line]
    assert len(figures) == 2  # before the first step and after the last
    assert {"scenes/existence", "scenes/existence_wrong_image", "scenes/caption_loss", "scenes/refer"} <= set(
        figures[-1]
    )
    assert figures[-1]["scenes/caption_loss"] < figures[0]["scenes/caption_loss"]
    plot_curve(directory, directory / "curve.png")
    assert (directory / "curve.png").stat().st_size > 5000


def test_only_projector_and_adapter_learn(finished):
    trainer, _, tower, embeddings = finished
    model = trainer.trainable.model
    for name, before in tower.items():
        assert torch.equal(model.model.vision_tower.state_dict()[name], before), name
    assert torch.equal(model.get_input_embeddings().weight, embeddings)
    assert all(parameter.grad is None for parameter in model.model.vision_tower.parameters())
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert names and all(".lora_" in name or "projector" in name for name in names)
    assert any(p.abs().max() > 0 for name, p in model.named_parameters() if "lora_B" in name)


def test_the_exported_bridge_gives_the_same_logits(finished, tiny_checkpoint):
    trainer, directory, _, _ = finished
    model, processor = _load(tiny_checkpoint)
    bridge = directory / "bridge"
    model.model.projector.load_state_dict(
        {k: v.float() for k, v in load_file(bridge / "projector.safetensors").items()}
    )
    merged = merge_lora(model.model.language_model.state_dict(), bridge)
    model.model.language_model.load_state_dict(merged)
    about = json.loads((bridge / "bridge.json").read_text())
    assert about["steps"] == 20 and about["geometry"]["image_size"] == 64 and about["recipe"]["seed"] == 3
    image = ImageRef("probe", scene=make_scene("probe"))
    store = FeatureStore(model, processor)
    features = store.get([image])
    from fourfold.assistant.training.data import Sample
    from fourfold.assistant.training.data.scene_tasks import SCENE_SORTS

    sample = Sample((image,), tuple(SCENE_SORTS["existence"](image.scene)))
    batch = collate([trainer.packer.pack(sample)], trainer.packer.padding_id)
    trainer.trainable.eval()
    with torch.inference_mode():
        mine = trainer.trainable.model.lm_head(trainer.trainable.hidden(batch, features))
        embeds = model.model.embed(batch.ids, model.model.project_features(features.float()))
        theirs = model.lm_head(
            model.model(inputs_embeds=embeds, attention_mask=batch.mask, position_ids=batch.positions)[0]
        )
    used = trainer.packer.pack(sample)
    # float16 in the files, and bfloat16 matrices in training where the processor is fast with them
    assert (mine - theirs)[0, : len(used)].abs().max() < 0.05
    agree = (mine.argmax(-1) == theirs.argmax(-1))[0, : len(used)].float().mean()
    assert agree > 0.9


def test_a_killed_run_goes_on_as_if_nothing_had_happened(finished, tiny_recipe, tiny_checkpoint, tmp_path):
    _, whole, _, _ = finished
    directory = tmp_path / "killed"
    command = [sys.executable, "-m", "fourfold.cli", "train", str(RECIPES / "tiny.yaml")]
    command += ["--base", str(tiny_checkpoint), "--out", str(directory), "--threads", str(torch.get_num_threads())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Killed between two checkpoints: steps 6 to 9 are lost and done again.
    deadline = time.monotonic() + 120
    log = directory / "log.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and any('"step": 7' in line for line in log.read_text().splitlines()):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = _trainer(tiny_recipe, tiny_checkpoint, directory)
    assert 5 <= again.step < 20
    assert again.run()
    losses = [[(line["step"], line["loss"]) for line in read_log(d) if "loss" in line] for d in (whole, directory)]
    assert losses[0] == losses[1]
    one, two = (torch.load(d / "state.pt", weights_only=True) for d in (whole, directory))
    assert one["trained"].keys() == two["trained"].keys()
    for name, tensor in one["trained"].items():
        assert torch.equal(tensor, two["trained"][name]), name


def test_lines_of_lost_steps_and_a_line_that_was_cut_off_are_dropped(finished, tiny_checkpoint, tiny_recipe, tmp_path):
    cut_off = '{"step": 20, "held_out": {"scenes/existence": 0.5}'  # it ends as a whole one does
    _, directory, _, _ = finished
    shutil.copytree(directory, tmp_path / "saved")
    whole = (directory / "log.jsonl").read_text()
    (tmp_path / "saved" / "log.jsonl").write_text(whole + cut_off)
    _trainer(tiny_recipe, tiny_checkpoint, tmp_path / "saved")
    assert (tmp_path / "saved" / "log.jsonl").read_text() == whole
    begun = tmp_path / "begun"  # killed before its first checkpoint
    begun.mkdir()
    (begun / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n' + cut_off)
    _trainer(tiny_recipe, tiny_checkpoint, begun)
    assert read_log(begun) == []


def test_a_run_of_another_recipe_is_refused(finished, tiny_checkpoint, tiny_recipe, tmp_path):
    _, directory, _, _ = finished
    shutil.copytree(directory, tmp_path / "run")
    with pytest.raises(UserError, match="batch_size"):
        _trainer(replace(tiny_recipe, batch_size=2), tiny_checkpoint, tmp_path / "run")


def test_a_time_limit_stops_between_steps(tiny_checkpoint, tiny_recipe, tmp_path):
    trainer = _trainer(tiny_recipe, tiny_checkpoint, tmp_path)
    assert trainer.run(max_minutes=0) is False
    assert (tmp_path / "state.pt").exists() and trainer.step == 0


class _Clock:
    """Each reading of it takes a twentieth of a second, whatever else the machine is doing."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.05
        return self.now


def test_steps_are_fitted_to_the_time_and_the_rate_comes_down(tiny_checkpoint, tiny_recipe, tmp_path, monkeypatch):
    clock = _Clock()
    monkeypatch.setattr("fourfold.assistant.training.trainer.time", clock)
    recipe = replace(tiny_recipe, stages=(replace(tiny_recipe.stages[1], steps=100_000),), evaluate_every=10**6)
    trainer = _trainer(recipe, tiny_checkpoint, tmp_path, evaluate=True)
    assert trainer.run(max_minutes=0.15, fit=True)
    assert 7 < clock.now < 9  # a second is left for what nobody foresees
    assert trainer.step == trainer.recipe.steps > 20
    lines = [line for line in read_log(tmp_path) if "loss" in line]
    assert lines[-1]["lora_lr"] < 0.15 * recipe.stages[0].lora_lr
    middle = lines[len(lines) // 2]
    assert middle["steps"] == pytest.approx(trainer.step, rel=0.6) and middle["minutes_left"] > 0
    assert [line["step"] for line in read_log(tmp_path) if "held_out" in line] == [0, trainer.step]  # the last look too


def test_fitting_needs_a_time_to_fit_into():
    from fourfold.cli.train import run

    with pytest.raises(UserError, match="--fit needs --max-minutes"):
        run(RECIPES / "tiny.yaml", fit=True)


def test_a_run_pauses_while_a_file_exists(tiny_checkpoint, tiny_recipe, tmp_path):
    pause = tmp_path / "pause"
    pause.touch()
    told, began = [], []

    def report(line):
        told.append(line)
        if "paused" in line:
            began.append(time.monotonic())
            threading.Timer(1.0, pause.unlink).start()

    recipe = replace(tiny_recipe, stages=(replace(tiny_recipe.stages[0], steps=3),))
    trainer = Trainer(recipe, *_load(tiny_checkpoint), tmp_path / "run", report=report)
    assert trainer.run(pause_file=pause)
    assert [line["step"] for line in told if "paused" in line] == [0] and trainer.step == 3
    (paused,) = [line["paused_seconds"] for line in told if "paused_seconds" in line]
    # It counts as no part of the steps; half of it is left for what else took time.
    assert paused >= 1 and trainer.seen["seconds"] < time.monotonic() - began[0] - paused / 2
    pause.touch()
    longer = replace(recipe, stages=(replace(recipe.stages[0], steps=9),))
    again = _trainer(longer, tiny_checkpoint, tmp_path / "run")
    assert not again.run(max_minutes=0.01, pause_file=pause) and again.step == 3  # the time ends in a pause as well


def test_rates_warm_up_and_fall_stage_by_stage(tiny_recipe):
    rates = [learning_rates(tiny_recipe, step) for step in range(tiny_recipe.steps)]
    assert rates[0] == (1.5e-3, 0) and rates[1] == (3e-3, 0)
    assert all(lora == 0 for _, lora in rates[:8]) and rates[8][1] > 0
    assert rates[7][0] < rates[2][0] and rates[-1][1] < rates[10][1]


def test_features_are_kept_and_found_again(tiny_checkpoint, tmp_path):
    model, processor = _load(tiny_checkpoint)
    images = [ImageRef(f"f{n}", scene=make_scene(f"f{n}")) for n in range(5)]
    first = FeatureStore(model, processor, tmp_path).get(images)
    again = FeatureStore(model, processor, tmp_path)
    assert all(image in again for image in images)
    assert torch.equal(again.get(images[::-1]), first.flip(0))
    pixels = processor.image_processor([image.open() for image in images], return_tensors="pt")["pixel_values"]
    expected = model.model.encode_images(pixels)
    assert torch.nn.functional.cosine_similarity(first.float(), expected, dim=-1).min() > 0.999


def test_features_in_memory_are_those_in_files(tiny_checkpoint, tmp_path):
    model, processor = _load(tiny_checkpoint)
    images = [ImageRef(f"f{n}", scene=make_scene(f"f{n}")) for n in range(9)]
    memory, files = FeatureStore(model, processor), FeatureStore(model, processor, tmp_path)
    done: list[int] = []
    memory.compute(images[:4] * 2, batch_size=2, workers=1, on_progress=done.append)
    files.compute(images, batch_size=4)
    assert done == [2, 4] and images[3] in memory and images[4] not in memory
    for order in ([3, 1, 1], [8, 0, 5, 2]):  # at hand, and partly found only now
        wanted = [images[place] for place in order]
        assert torch.equal(memory.get(wanted), files.get(wanted))
    assert memory.get([]).shape == files.get([]).shape == (0, *memory.get(images[:1]).shape[1:])


def test_a_bf16_linear_is_the_layer_up_to_rounding_and_passes_gradients():
    linear = torch.nn.Linear(32, 8)
    x = torch.randn(5, 32, requires_grad=True)
    y = BF16Linear(linear)(x)
    assert y.dtype == torch.float32 and torch.allclose(y, linear(x), atol=0.03)
    y.sum().backward()
    assert torch.allclose(x.grad, linear.weight.sum(0).expand(5, -1), atol=0.03)


def test_recipes_refuse_what_they_do_not_know(tmp_path):
    values = {"base": "x", "mixture": {"scenes": 2, "scene_tasks": {"caption": 1}}, "stages": [{"steps": 1}]}
    assert recipe_of({**values, "stages": [{"steps": 1, "lora_lr": "3e-4"}]}).stages[0].lora_lr == 3e-4
    for changes, message in (
        ({"btach_size": 4}, "btach_size"),
        ({"stages": []}, "stages"),
        ({"start": "warm"}, "start: .*closed_form.* or .*random"),
        ({"batch_size": "many"}, "batch_size"),
        ({"stages": [{}]}, "steps"),
    ):
        with pytest.raises(UserError, match=message):
            recipe_of({**values, **changes})
    values["mixture"] = values["mixture"] | {"multi_turn": 0.5}
    for part, wrong, message in (
        ("batch_size", 0, "batch_size: .*greater than or equal to 1"),
        ("accumulation", True, "accumulation"),
        ("clip", "none", "clip"),
        ("lora", {"rnk": 2}, "lora.rnk is unknown"),
        ("lora", {"first": 1.5}, "lora.first: .*less than or equal to 1"),
        ("mixture", values["mixture"] | {"photos": {"flicker": 1}}, "mixture: photos .*flicker"),
        ("mixture", values["mixture"] | {"together": 0.2}, "mixture.together"),
    ):
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({**values, part: wrong}))
        with pytest.raises(UserError, match=rf"wrong\.yaml: .*{message}") as caught:
            read_recipe(tmp_path / "wrong.yaml")
        assert "\n" not in str(caught.value)
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        read_recipe(tmp_path / "bad.yaml")


def test_recipes_and_runs_in_the_old_words_are_read(finished, tiny_recipe, tiny_checkpoint, tmp_path):
    values = read_yaml(RECIPES / "tiny.yaml")
    values["mixture"]["together"] = tiny_recipe.mixture.multi_turn
    assert recipe_of(values) == tiny_recipe
    _, directory, _, _ = finished
    state = torch.load(directory / "state.pt", weights_only=True)
    state["recipe"]["mixture"]["together"] = state["recipe"]["mixture"].pop("multi_turn")
    torch.save(state, tmp_path / "state.pt")
    assert _trainer(tiny_recipe, tiny_checkpoint, tmp_path).finished


@pytest.mark.parametrize("name", ["mini", "mini_cpu", "tiny"])
def test_shipped_recipes_can_be_read(name):
    assert read_recipe(RECIPES / f"{name}.yaml").steps > 0


def test_the_gpu_recipe_runs_in_small(shared_data, tiny_checkpoint, tmp_path):
    """All that it asks for: several views of photos, all sorts of questions, features first, batches made ahead."""
    values = read_yaml(RECIPES / "mini.yaml")
    values["mixture"] |= {"scenes": 8, "scenes_per_epoch": 4, "limit": 3, "views": 3}
    values |= {"batch_size": 2, "workers": 1, "checkpoint_every": 2, "log_every": 1, "held_out_items": 2}
    values["stages"] = [{**values["stages"][0], "steps": 3}]
    recipe = recipe_of(values)
    trainer = _trainer(recipe, tiny_checkpoint, tmp_path / "run")
    assert not trainer.run(0.0)  # no minutes: it stops before the first step, and goes on from there
    again = _trainer(recipe, tiny_checkpoint, tmp_path / "run")
    assert again.step == trainer.step
    assert not any(image in again.store for image in Mixture(recipe.mixture).images())
    assert again.run() and again.step == 3
    assert all(image in again.store for image in Mixture(recipe.mixture).images())
    assert (tmp_path / "run" / "bridge" / "adapter_model.safetensors").exists()


def test_batches_with_no_picture_and_with_two_are_learnt(tiny_recipe, tiny_checkpoint, tmp_path):
    from fourfold.assistant.training.data.mixture import Mixture
    from fourfold.assistant.training.dataset import BucketedDataset

    talks = replace(tiny_recipe.mixture, no_picture=0.3, two_pictures=0.3, greetings=0.3, scenes_per_epoch=4)
    changes = {"mixture": talks, "batch_size": 1, "accumulation": 1, "bucket": 10, "box_tens": 2.0, "log_every": 1}
    recipe = replace(tiny_recipe, stages=(replace(tiny_recipe.stages[1], steps=10),), precompute=True, **changes)
    trainer = _trainer(recipe, tiny_checkpoint, tmp_path)
    assert trainer.run() and trainer.seen["sequences"] == 10
    dataset = BucketedDataset(Mixture(talks), trainer.packer, batch_size=1, bucket=10)
    assert {len(item.images) for item in dataset[0]} == {0, 1, 2}, "batches of all three sorts were learnt from"


def test_ablations_write_one_table(tiny_checkpoint, tmp_path):
    from fourfold.cli.train import ablations

    assert len(read_variants(RECIPES / "ablations.yaml")) >= 8
    recipe = (RECIPES / "tiny.yaml").read_text().replace("\n", "\n  ").replace("steps: 8", "steps: 1")
    recipe = recipe.replace("steps: 12", "steps: 2")
    variants = "variants:\n  both:\n  projector_only: {lora: {rank: 0}}\n  block: {vision_llm_block: 1}\n"
    (tmp_path / "two.yaml").write_text(f"recipe:\n  {recipe}\n{variants}")
    ablations(tmp_path / "two.yaml", tmp_path / "out", str(tiny_checkpoint))
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert len(lines) == 5 and "scenes/existence" in lines[0]
    rows = json.loads((tmp_path / "out" / "table.json").read_text())
    trained = {name: row["trained_parameters"] for name, row in rows.items()}
    assert trained["block"] > trained["both"] > trained["projector_only"]
    with pytest.raises(UserError, match="projector_only"):
        ablations(tmp_path / "two.yaml", tmp_path / "out", str(tiny_checkpoint), only=["nothing"])


def test_a_bf16_lora_layer_is_pefts_layer_up_to_rounding():
    from peft import LoraConfig
    from peft.tuners.lora import Linear

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["x"])
    layer = Linear(torch.nn.Linear(32, 8), "default", config, r=4, lora_alpha=8)
    torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    rounded_layer = BF16LoraLinear(layer)
    x = torch.randn(3, 5, 32)
    results = []
    for module in (layer, rounded_layer):
        seen = x.clone().requires_grad_()
        layer.zero_grad()
        module(seen).square().sum().backward()
        weights = (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
        results.append([module(seen).detach(), seen.grad, *(weight.grad.clone() for weight in weights)])
    for exact, rounded in zip(*results, strict=True):
        assert rounded.dtype == torch.float32
        assert (exact - rounded).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.parametrize("fast_bf16", [False, True])
def test_an_exported_adapter_is_whole_and_means_the_same(tiny_checkpoint, tmp_path, fast_bf16, monkeypatch):
    monkeypatch.setattr("fourfold.assistant.training.trainable_model.has_fast_bf16", lambda device: fast_bf16)
    model, _ = _load(tiny_checkpoint)
    before = {name: tensor.clone() for name, tensor in model.model.language_model.state_dict().items()}
    trainable = TrainableModel(model, LoraSettings(rank=4, alpha=8)).eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    trainable.save_adapter(tmp_path)
    layers = model.config.text_config.num_hidden_layers
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == 2 * 7 * layers
    merged, _ = _load(tiny_checkpoint)
    merged.model.language_model.load_state_dict(merge_lora(before, tmp_path))
    ids = torch.arange(4, 40).unsqueeze(0)
    with torch.inference_mode():
        mine = model.lm_head(model.model.language_model(input_ids=ids).last_hidden_state)
        plain, theirs = _load(tiny_checkpoint)[0](input_ids=ids).logits, merged(input_ids=ids).logits
    assert (mine - theirs).abs().max() < 0.1 * (plain - theirs).abs().max()
