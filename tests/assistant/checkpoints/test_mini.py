"""Putting the default model together, from tiny parts; the real ones in the tests marked `mini`."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from fourfold.assistant.checkpoints import cache as cache_module
from fourfold.assistant.checkpoints.bridge import read_geometry
from fourfold.assistant.checkpoints.mini import assemble
from fourfold.assistant.checkpoints.positions import resize_position_embeddings
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.assistant.model import MiniGPTv2ForConditionalGeneration
from fourfold.assistant.training.bridge import export_bridge
from fourfold.assistant.training.recipe import recipe_of
from fourfold.assistant.training.trainable_model import TrainableModel, load_base
from fourfold.prompts.errors import UserError
from tests.assistant.checkpoints import tiny_weights
from tests.assistant.checkpoints.conftest import Shop


@pytest.fixture
def base(tiny_parts: Shop, tmp_path: Path) -> Path:
    return assemble(tmp_path / "base", bridge=None, image_size=64, blocks=7)


def load(directory: Path) -> MiniGPTv2ForConditionalGeneration:
    model, report = AutoModelForImageTextToText.from_pretrained(directory, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


def test_it_is_an_ordinary_checkpoint_that_answers(base: Path) -> None:
    model, processor = load(base), AutoProcessor.from_pretrained(base)
    assert type(model).__name__ == "MiniGPTv2ForConditionalGeneration"
    assert model.dtype == torch.float32
    parts = [{"type": "image", "image": Image.new("RGB", (30, 50), "red")}, {"type": "text", "text": "hello 12"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == model.config.image_seq_length == 4
    tokens = model.generate(**inputs, max_new_tokens=4)
    assert tokens.shape[1] > inputs["input_ids"].shape[1]


def test_generation_is_greedy_and_stops_at_the_end_of_the_turn(base: Path) -> None:
    model, processor = load(base), AutoProcessor.from_pretrained(base)
    assert model.generation_config.do_sample is False
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id
    assert model.config.text_config.eos_token_id == model.generation_config.eos_token_id


def test_the_tower_is_the_first_blocks_of_the_published_one(base: Path, tmp_path: Path) -> None:
    """Its output is the hidden state after block 7 of the whole tower, at the new size."""
    model, original = load(base), tiny_weights.tiny_tower()
    original.load_state_dict(tiny_weights.write_onnx(tmp_path / "t.onnx", original))
    pixels = torch.randn(2, 3, 64, 64)
    positions = resize_position_embeddings(original.embeddings.position_embedding.weight, 4)
    with torch.no_grad():
        hidden = original.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        hidden = torch.cat([original.embeddings.class_embedding.expand(2, 1, -1), hidden], dim=1) + positions
        hidden = original.pre_layrnorm(hidden)
        for block in original.encoder.layers[:7]:
            hidden = block(hidden, attention_mask=None)
        torch.testing.assert_close(model.model.encode_images(pixels), hidden[:, 1:], atol=1e-4, rtol=1e-4)


def test_a_random_projector_is_as_loud_as_words_and_always_the_same(base: Path, tmp_path: Path) -> None:
    model = load(base)
    with torch.no_grad():
        loudness = model.model.project_features(model.model.encode_images(torch.randn(4, 3, 64, 64))).std()
        words = model.get_input_embeddings().weight.std()
    assert loudness / words == pytest.approx(1, abs=0.15)
    again = load(assemble(tmp_path / "again", bridge=None, image_size=64, blocks=7))
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key]), key


def test_a_bridge_brings_projector_and_merged_lora(tiny_parts: Shop, tiny_bridge: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model = load(assemble(tmp_path / "mini", bridge=tiny_bridge, image_size=64, blocks=7))
    projector = load_file(tiny_bridge / "projector.safetensors")
    assert torch.equal(model.model.projector.weight, projector["weight"].float())
    assert torch.equal(model.model.projector.bias, projector["bias"].float())
    adapted = PeftModel.from_pretrained(tiny_weights.tiny_llama().model, tiny_bridge).eval()
    ids = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        expected = adapted(input_ids=ids).last_hidden_state
        torch.testing.assert_close(
            model.model.language_model(input_ids=ids).last_hidden_state, expected, atol=1e-4, rtol=1e-4
        )
        expected_logits = expected @ tiny_weights.tiny_llama().model.embed_tokens.weight.T
        torch.testing.assert_close(model(input_ids=ids).logits, expected_logits, atol=1e-3, rtol=1e-3)
    assert json.loads((tmp_path / "mini/bridge.json").read_text())["seed"] == 5


def test_the_directory_says_where_it_came_from(base: Path, tiny_bridge: Path, tmp_path: Path, tiny_parts: Shop) -> None:
    card = (base / "README.md").read_text()
    assert "cannot see" in card
    for part in (value for pin in tiny_parts.pins.values() for value in (pin.package, pin.sha256, pin.licence)):
        assert part in card
    assert "Permission is hereby granted" in (base / "LICENSE-CLIP.txt").read_text()
    assert "Apache License" in (base / "LICENSE-SmolLM2.txt").read_text()
    assemble(tmp_path / "mini", bridge=tiny_bridge, image_size=64, blocks=7)
    card = (tmp_path / "mini/README.md").read_text()
    assert "research use only" in card
    assert "cannot see" not in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 224 // 16 * 16}, "folds"),
        ({"image_size": 100}, "patch_size"),
        ({"image_size": 48, "fold_shape": "square"}, r"folds of 4 \(2 x 2\)"),
        ({"fold_shape": "ring"}, "'row' or 'square'"),
        ({"blocks": 13}, "12 blocks"),
        ({"blocks": 0}, "12 blocks"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(
    tiny_parts: Shop, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        assemble(tmp_path / "bad", **{"bridge": None, "image_size": 64, **options})
    assert not (tmp_path / "bad").exists()


def test_a_square_fold_goes_where_rows_do_not(tiny_parts: Shop, tiny_bridge: Path, tmp_path: Path) -> None:
    """At a grid of 6 x 6; the bridge's record says which fold it is for, and `assemble` keeps to it."""
    geometry = {"image_size": 96, "blocks": 7, "fold_shape": "square"}
    bridge = shutil.copytree(tiny_bridge, tmp_path / "bridge")
    (bridge / "bridge.json").write_text(json.dumps({"geometry": geometry}))
    assert read_geometry(bridge) == geometry
    assert read_geometry(tiny_bridge) == {"image_size": 64, "blocks": 7, "fold_shape": "row"}
    directory = assemble(tmp_path / "mini", bridge=bridge, **read_geometry(bridge))
    model, processor = load(directory), AutoProcessor.from_pretrained(directory)
    assert model.config.token_grid == (3, 3)
    assert processor.num_image_tokens == model.config.image_seq_length == 9
    assert "every 4 neighbours (2 x 2) folded into one, 9 tokens an image" in (directory / "README.md").read_text()
    with pytest.raises(UserError, match=r"trained for .*square"):
        assemble(tmp_path / "bad", bridge=bridge, **{**geometry, "fold_shape": "row", "image_size": 64})


def test_a_recipe_trains_a_square_fold_and_its_bridge_says_so(tiny_parts: Shop, tmp_path: Path) -> None:
    sizes = {"image_size": 96, "blocks": 7, "fold_shape": "square"}
    recipe = recipe_of({"base": "fourfold-mini-base", "mixture": {}, "stages": [{"steps": 1}], **sizes})
    model, processor = load_base(recipe)
    assert model.config.token_grid == (3, 3) and processor.num_image_tokens == 9
    with torch.no_grad():
        model.model.projector.bias += 0.5
    expected = model.model.projector.state_dict()
    export_bridge(tmp_path / "bridge", TrainableModel(model, recipe.lora), recipe, 1, {})
    assert read_geometry(tmp_path / "bridge") == sizes
    made = load(assemble(tmp_path / "mini", bridge=tmp_path / "bridge", **read_geometry(tmp_path / "bridge")))
    for name, tensor in made.model.projector.state_dict().items():
        torch.testing.assert_close(tensor, expected[name].half().float())
    with pytest.raises(UserError, match=r"image_size, blocks, fold_shape: .* a variant of fourfold-mini-base"):
        load_base(recipe, "fourfold-mini")  # whose bridge would be lost without a word
    with pytest.raises(UserError, match=r"fold_shape.*'row' or 'square'"):
        recipe_of({"base": "fourfold-mini-base", "mixture": {}, "stages": [{"steps": 1}], "fold_shape": "ring"})


def test_what_exists_is_not_overwritten(tiny_parts: Shop, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="exists already"):
        assemble(tmp_path / "mine", bridge=None)


@pytest.fixture
def own_bridge(tiny_bridge: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bridge, tmp_path / "own")


@pytest.mark.parametrize("name", ["projector.safetensors", "adapter_model.safetensors", "adapter_config.json"])
def test_a_bridge_without_a_file_is_refused_by_name(
    tiny_parts: Shop, own_bridge: Path, tmp_path: Path, name: str
) -> None:
    (own_bridge / name).unlink()
    with pytest.raises(UserError, match=name):
        assemble(tmp_path / "bad", bridge=own_bridge, image_size=64, blocks=7)


def test_a_bridge_for_other_sizes_is_refused(tiny_parts: Shop, own_bridge: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trained for"):
        assemble(tmp_path / "bad", bridge=own_bridge, image_size=64, blocks=6)
    save_file({"weight": torch.zeros(64, 128), "bias": torch.zeros(64)}, own_bridge / "projector.safetensors")
    with pytest.raises(UserError, match=r"projector\.safetensors"):
        assemble(tmp_path / "bad", bridge=own_bridge, image_size=64, blocks=7)


def test_a_bridge_of_a_model_with_a_vision_block_is_refused(tiny_parts: Shop, own_bridge: Path, tmp_path: Path) -> None:
    """The block's two linear layers were trained too, and are not in the bridge."""
    geometry = {"image_size": 64, "blocks": 7, "vision_llm_block": 1}
    (own_bridge / "bridge.json").write_text(json.dumps({"geometry": geometry}))
    with pytest.raises(UserError, match="vision block"):
        assemble(tmp_path / "bad", bridge=own_bridge, image_size=64, blocks=7)


def test_a_bridge_with_a_broken_record_is_refused(tiny_parts: Shop, own_bridge: Path, tmp_path: Path) -> None:
    for text in ("{", "[]"):
        (own_bridge / "bridge.json").write_text(text)
        with pytest.raises(UserError, match=r"bridge\.json"):
            assemble(tmp_path / "bad", bridge=own_bridge, image_size=64, blocks=7)


def test_too_little_room_for_the_model_is_said(
    tiny_parts: Shop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="MB are free"):
        assemble(tmp_path / "full", bridge=None, image_size=64, blocks=7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "cache"]


ASSEMBLE_AND_DIE = """
from pathlib import Path
from fourfold.assistant.checkpoints import mini
mini.IMAGE_TOWER, mini.LANGUAGE_MODEL = pins['tower'], pins['language']
if os.environ['DIE'] == 'while saving':
    mini.write_card = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
def tell(event):
    if event.stage.startswith('Assembling') and os.environ['DIE'] == str(event.done):
        os.kill(os.getpid(), signal.SIGKILL)
mini.assemble(Path(os.environ['TARGET']), bridge=None, image_size=64, blocks=7, on_progress=tell)
"""


@pytest.mark.parametrize("when", ["1", "while saving"])
def test_killed_while_assembling_leaves_nothing_that_counts(
    tiny_parts: Shop, tmp_path: Path, cache: Path, when: str
) -> None:
    target = tmp_path / "killed"
    environment = tiny_weights.only_from(tiny_parts.directory) | {"DIE": when, "TARGET": str(target)}
    process = tiny_weights.start(ASSEMBLE_AND_DIE, tiny_parts.pins, cache, environment)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors
    assert not target.exists()
    load(assemble(target, bridge=None, image_size=64, blocks=7))


@pytest.fixture(scope="module")
def real_directory() -> Path:
    return resolve_model("fourfold-mini-base")


@pytest.fixture(scope="module")
def real_model(real_directory: Path) -> MiniGPTv2ForConditionalGeneration:
    return load(real_directory)


@pytest.mark.mini
def test_the_real_model_still_talks(real_model: MiniGPTv2ForConditionalGeneration, real_directory: Path) -> None:
    processor = AutoProcessor.from_pretrained(real_directory)
    question = [{"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}]
    inputs = processor.apply_chat_template(
        question, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    tokens = real_model.generate(**inputs, max_new_tokens=20)[0, inputs["input_ids"].shape[1] :]
    assert processor.decode(tokens) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.mini
def test_sizes_of_the_real_model(real_model: MiniGPTv2ForConditionalGeneration) -> None:
    assert real_model.config.image_seq_length == 64
    assert real_model.config.vision_config.num_hidden_layers == 11
    assert len(real_model.model.vision_tower.encoder.layers) == 11
    assert real_model.model.projector.weight.shape == (576, 3072)


@pytest.mark.mini
def test_the_real_image_features_tell_things_apart(
    real_model: MiniGPTv2ForConditionalGeneration, real_directory: Path, shared_data: Path
) -> None:
    """Crops of one photo are closer to each other than to any other photo: chance would be 1 in 16."""
    processor = AutoProcessor.from_pretrained(real_directory)
    photos = sorted((shared_data / "photos/imagenet_sample/images").iterdir())[::60][:16]
    left, right = [], []
    for path in photos:
        photo = Image.open(path).convert("RGB")
        width, height = photo.size
        left.append(photo.crop((0, 0, width * 2 // 3, height)))
        right.append(photo.crop((width // 3, 0, width, height)))
    pixels = processor.image_processor(left + right, return_tensors="pt").pixel_values
    with torch.no_grad():
        features = real_model.model.encode_images(pixels).mean(1)
    features = torch.nn.functional.normalize(features - features.mean(0), dim=-1)
    matches = (features[:16] @ features[16:].T).argmax(1)
    assert (matches == torch.arange(16)).float().mean() >= 0.9
