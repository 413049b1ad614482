"""The model against independent formulas, and the equalities that any decoder must keep."""

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    Blip2VisionConfig,
    CLIPVisionConfig,
    LlamaConfig,
    MistralConfig,
    SiglipVisionConfig,
    ViTConfig,
)

from fourfold.assistant.model import MiniGPTv2Config, MiniGPTv2ForConditionalGeneration
from fourfold.assistant.model.modeling_minigpt_v2 import fold_tokens
from tests.tiny import tiny_config, tiny_model, tiny_processor

IMAGE_IDS = [3] * 4
# Of a grid of 4 x 4: the patches at the top left, top right, bottom left and bottom right of each of the 2 x 2 cells.
SQUARE_PLACES = [[0, 2, 8, 10], [1, 3, 9, 11], [4, 6, 12, 14], [5, 7, 13, 15]]


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cell", [(1, 4), (2, 2), (1, 1), (3, 3), (1, 12)])
def test_fold_equals_a_naive_loop_over_cells(cell: tuple[int, int]) -> None:
    tokens, (rows, columns) = torch.randn(2, 144, 5), cell
    naive = [
        [
            [value for y in range(rows) for x in range(columns) for value in image[12 * (top + y) + left + x].tolist()]
            for top in range(0, 12, rows)
            for left in range(0, 12, columns)
        ]
        for image in tokens
    ]
    assert fold_tokens(tokens, 12, cell).tolist() == naive


def test_a_folded_token_covers_four_neighbours() -> None:
    grid = torch.arange(16).reshape(1, 16, 1).float()
    rows = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert fold_tokens(grid, 4, (1, 4))[0].tolist() == rows
    assert fold_tokens(grid, 4, (1, 4)).data_ptr() == grid.data_ptr()  # nothing is copied
    squares = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert fold_tokens(grid, 4, (2, 2))[0].tolist() == squares


@pytest.mark.parametrize("fold_shape", ["row", "square"])
def test_image_way_equals_its_formula(fold_shape: str) -> None:
    """Raw last block → layer-norm (eps 1e-5) → class token dropped → fold → linear, written out by hand."""
    model = tiny_model(fold_shape=fold_shape).model
    places = {"row": [[4 * g + k for g in range(4)] for k in range(4)], "square": SQUARE_PLACES}[fold_shape]
    with torch.no_grad():
        tower = model.vision_tower
        hidden = tower.encoder(inputs_embeds=tower.pre_layrnorm(tower.embeddings(pixels(2)))).last_hidden_state[:, 1:]
        normed = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        folded = torch.cat([normed[:, place] for place in places], dim=-1)
        expected = folded @ model.projector.weight.T + model.projector.bias
        got = torch.stack(model.get_image_features(pixels(2)).pooler_output)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_images_land_at_their_placeholders() -> None:
    model = tiny_model().model
    ids = torch.tensor([[1, *IMAGE_IDS, 10, *IMAGE_IDS, 11]])
    images = torch.stack(model.get_image_features(pixels(2)).pooler_output)
    embeds = model.embed(ids, images)
    assert torch.equal(embeds[0, 1:5], images[0])
    assert torch.equal(embeds[0, 6:10], images[1])
    assert torch.equal(embeds[0, 5], model.get_input_embeddings().weight[10])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_placeholders_that_do_not_match_the_images_are_refused(count: int) -> None:
    model = tiny_model()
    ids = torch.tensor([[1, *IMAGE_IDS, 5, *IMAGE_IDS]])
    with pytest.raises(ValueError, match="8 image placeholder tokens"):
        model.model.embed(ids, torch.zeros(count, 4, 64))


def test_swapping_the_images_changes_the_logits() -> None:
    model = tiny_model()
    ids = torch.tensor([[1, *IMAGE_IDS, 10, *IMAGE_IDS, 11]])
    with torch.no_grad():
        one = model(input_ids=ids, pixel_values=pixels(2)).logits
        other = model(input_ids=ids, pixel_values=pixels(2).flip(0)).logits
    assert not torch.allclose(one, other)


@torch.no_grad()
def test_cache_equals_no_cache() -> None:
    model = tiny_model()
    ids = torch.tensor([[1, *IMAGE_IDS, 20, 21, 22, 23]])
    whole = model(input_ids=ids, pixel_values=pixels(1)).logits
    first = model(input_ids=ids[:, :6], pixel_values=pixels(1), use_cache=True)
    rest = model(input_ids=ids[:, 6:], past_key_values=first.past_key_values, use_cache=True).logits
    torch.testing.assert_close(torch.cat([first.logits, rest], dim=1), whole, rtol=1e-4, atol=1e-5)
    for use_cache in (True, False):
        tokens = model.generate(
            input_ids=ids, pixel_values=pixels(1), max_new_tokens=8, do_sample=False, use_cache=use_cache
        )
        assert (
            tokens.tolist()
            == model.generate(input_ids=ids, pixel_values=pixels(1), max_new_tokens=8, do_sample=False).tolist()
        )


@torch.no_grad()
def test_batch_equals_single_and_left_padding_changes_nothing() -> None:
    model = tiny_model()
    short = [1, *IMAGE_IDS, 20]
    long = [1, *IMAGE_IDS, 21, 22, 23, 24]
    padded = torch.tensor([[0] * (len(long) - len(short)) + short, long])
    mask = (torch.arange(len(long)) >= torch.tensor([[len(long) - len(short)], [0]])).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    batch = model(input_ids=padded, attention_mask=mask, position_ids=positions, pixel_values=pixels(2)).logits
    for row, ids in enumerate((short, long)):
        alone = model(input_ids=torch.tensor([ids]), pixel_values=pixels(2)[row : row + 1]).logits
        torch.testing.assert_close(batch[row : row + 1, -len(ids) :], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fold_shape", ["row", "square"])
def test_save_and_load(fold_shape: str, tmp_path: Path) -> None:
    model = tiny_model(fold_shape=fold_shape)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(loaded, MiniGPTv2ForConditionalGeneration)
    assert loaded.config.fold_shape == fold_shape
    # A checkpoint whose fold is the original's has the configuration that it had before there was a choice.
    assert ("fold_shape" in json.loads((tmp_path / "config.json").read_text())) == (fold_shape == "square")
    assert (loaded.config.fold, loaded.config.image_token_id, loaded.config.image_seq_length) == (4, 3, 4)
    ids = torch.tensor([[1, *IMAGE_IDS, 20, 21]])
    with torch.no_grad():
        assert torch.equal(
            loaded(input_ids=ids, pixel_values=pixels(1)).logits, model(input_ids=ids, pixel_values=pixels(1)).logits
        )
    assert loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight


def test_gradients_reach_projector_and_lora_and_never_the_vit(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    lora = LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    model = get_peft_model(loaded, lora).train()
    model.base_model.model.model.projector.requires_grad_(True)
    ids = torch.tensor([[1, *IMAGE_IDS, 20, 21]])
    model(input_ids=ids, pixel_values=pixels(1), labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        has_gradient = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        expected = "lora_B" in name or ".projector." in name  # lora_A's is zero at the start, where lora_B is zero
        if "lora_A" not in name:
            assert has_gradient == expected, name


def test_training_leaves_the_frozen_parts_frozen_after_loading(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path).train()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {n for n, _ in model.named_parameters() if "vision_tower" in n or "vision_norm" in n} <= frozen
    assert not any("projector" in n or "language_model" in n for n in frozen)
    assert not model.model.vision_tower.training and model.model.projector.training


def test_loss_falls_when_overfitting_one_sample() -> None:
    model = tiny_model().train()
    ids = torch.tensor([[1, *IMAGE_IDS, 20, 21, 22, 23, 24]])
    labels = ids.clone()
    labels[:, :5] = -100
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(30):
        loss = model(input_ids=ids, pixel_values=pixels(1), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_a_configuration_with_a_vision_block_is_refused_and_none_is_nothing() -> None:
    assert not hasattr(
        MiniGPTv2Config.from_dict({**tiny_config().to_dict(), "vision_llm_block": None}), "vision_llm_block"
    )
    with pytest.raises(ValueError, match="vision_llm_block"):
        MiniGPTv2Config.from_dict({**tiny_config().to_dict(), "vision_llm_block": 1})


@pytest.mark.parametrize(
    "vision",
    [
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=64,
            patch_size=16,
        ),
        SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=64,
            patch_size=16,
        ),
        Blip2VisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=64,
            patch_size=16,
        ),
        ViTConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=64,
            patch_size=16,
        ),
    ],
    ids=lambda c: c.model_type,
)
@pytest.mark.parametrize(
    "text",
    [
        LlamaConfig(vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4),
        MistralConfig(
            vocab_size=99,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
    ],
    ids=lambda c: c.model_type,
)
def test_any_vit_and_any_llama_like_model(vision, text, tmp_path: Path) -> None:
    config = MiniGPTv2Config(vision_config=copy.deepcopy(vision), text_config=copy.deepcopy(text), image_token_id=3)
    model = MiniGPTv2ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    ids = torch.tensor([[1, *IMAGE_IDS, 20]])
    with torch.no_grad():
        got = loaded(input_ids=ids, pixel_values=pixels(1)).logits
        assert torch.equal(got, model(input_ids=ids, pixel_values=pixels(1)).logits)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    ids = torch.tensor([[1, *IMAGE_IDS, 20, 21]])
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=dtype)
    logits = loaded(input_ids=ids, pixel_values=pixels(1)).logits
    assert logits.dtype == dtype
    torch.testing.assert_close(
        logits.float(), model(input_ids=ids, pixel_values=pixels(1)).logits, rtol=0.05, atol=0.05
    )


@torch.no_grad()
def test_accelerate_places_the_model(tmp_path: Path) -> None:
    """`device_map` with a memory limit puts part of the model on disk, and it answers the same."""
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    ids = torch.tensor([[1, *IMAGE_IDS, 20, 21]])
    expected = model(input_ids=ids, pixel_values=pixels(1)).logits
    loaded = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "model", device_map="auto", max_memory={"cpu": "200KB"}, offload_folder=tmp_path / "offload"
    )
    assert "disk" in set(loaded.hf_device_map.values())
    torch.testing.assert_close(loaded(input_ids=ids, pixel_values=pixels(1)).logits, expected)


def test_grid_that_the_fold_does_not_divide_is_refused_at_load(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"image_size": 64', '"image_size": 96'))
    with pytest.raises(ValueError, match=r"6 wide .* folds of 4 \(1 x 4\)"):
        AutoModelForImageTextToText.from_pretrained(tmp_path)


def test_a_square_fold_divides_grids_that_rows_do_not() -> None:
    vision = {"model_type": "clip_vision_model", "patch_size": 16, "image_size": 224}
    config = MiniGPTv2Config(vision_config=vision, fold_shape="square")
    assert (config.fold_cell, config.token_grid, config.image_seq_length) == ((2, 2), (7, 7), 49)
    assert MiniGPTv2Config(vision_config=vision, fold=7).token_grid == (14, 2)
    for wrong, said in {
        "row": r"14 wide .* folds of 4 \(1 x 4\)",
        "ring": "fold_shape is 'ring'; it must be 'row' or 'square'",
    }.items():
        with pytest.raises(ValueError, match=said):
            MiniGPTv2Config(vision_config=vision, fold_shape=wrong)
    refused = {8: "fold is 8; .* a square 1, 4, 9", 9: r"14 wide .* \(3 x 3\)", 0: "fold is 0", -4: "fold is -4"}
    for fold, said in refused.items():
        with pytest.raises(ValueError, match=said):
            MiniGPTv2Config(vision_config=vision, fold_shape="square", fold=fold)


def test_image_that_patches_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of patch_size"):
        MiniGPTv2Config(vision_config=CLIPVisionConfig(image_size=100, patch_size=16))


def test_default_is_minigpt_v2() -> None:
    config = MiniGPTv2Config()
    assert (config.grid_width, config.image_seq_length) == (32, 256)
    assert config.vision_config.num_hidden_layers == 39 and config.vision_config.hidden_size == 1408


def test_tiny_config_counts() -> None:
    config = tiny_config()
    assert (config.grid_width, config.image_seq_length) == (4, 4)


@torch.no_grad()
def test_processor_and_model_meet(tmp_path: Path) -> None:
    """Through the chat template: two images in one conversation, and a typed placeholder that stays text."""
    processor = tiny_processor()
    model = tiny_model(vocab_size=len(processor.tokenizer))
    red, blue = Image.new("RGB", (80, 50), "red"), Image.new("RGB", (30, 90), "blue")
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": red}, {"type": "text", "text": "what is <ImageHere>?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
        {"role": "user", "content": [{"type": "image", "image": blue}, {"type": "text", "text": "and this?"}]},
    ]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == 8
    assert inputs["pixel_values"].shape == (2, 3, 64, 64)
    assert model(**inputs).logits.isfinite().all()
    processor.save_pretrained(tmp_path)
    again = type(processor).from_pretrained(tmp_path)
    assert torch.equal(
        again.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )["input_ids"],
        inputs["input_ids"],
    )


def test_processor_squashes_and_never_crops() -> None:
    wide = Image.new("RGB", (200, 20), "red")
    wide.paste("blue", (100, 0, 200, 20))
    values = tiny_processor().image_processor(wide, return_tensors="pt")["pixel_values"][0]
    assert values.shape == (3, 64, 64)
    assert values[0, :, :24].mean() > values[0, :, 40:].mean()  # red left, blue right: both halves are still there


def test_processor_reports_tokens_for_vllm() -> None:
    counts = tiny_processor()._get_num_multimodal_tokens(image_sizes=[(10, 20), (500, 30)])
    assert counts.num_image_tokens == [4, 4] and counts.num_image_patches == [1, 1]


def test_inputs_that_contradict_each_other_are_refused() -> None:
    model = tiny_model().model
    embeds = torch.zeros(1, 2, 64)
    for inputs in ({}, {"input_ids": torch.tensor([[1, 2]]), "inputs_embeds": embeds}):
        with pytest.raises(ValueError, match="exactly one"):
            model(**inputs)
    with pytest.raises(ValueError, match="0 image placeholder tokens, the images bring 4"):
        model(inputs_embeds=embeds, pixel_values=pixels(1))


@torch.no_grad()
def test_images_find_their_places_in_embeddings_too() -> None:
    model = tiny_model()
    ids = torch.tensor([[1, *IMAGE_IDS, 10, *IMAGE_IDS, 11]])
    embeds = model.get_input_embeddings()(ids)
    expected = model(input_ids=ids, pixel_values=pixels(2))
    given = model(inputs_embeds=embeds, pixel_values=pixels(2))
    assert torch.equal(given.logits, expected.logits)
    assert torch.equal(given.image_hidden_states, expected.image_hidden_states)
    options = {"pixel_values": pixels(2), "max_new_tokens": 5, "do_sample": False}
    tokens = model.generate(input_ids=ids, **options)[:, ids.shape[1] :]
    assert torch.equal(model.generate(inputs_embeds=embeds, **options), tokens)


@torch.no_grad()
def test_outputs_as_tuples() -> None:
    """By the argument and by the configuration, of the whole model, its inner one and the image features."""
    model = tiny_model()
    ids = torch.tensor([[1, *IMAGE_IDS, 10]])
    inputs = {"input_ids": ids, "pixel_values": pixels(1)}
    logits, features = model(**inputs).logits, model.get_image_features(pixels(1))
    hidden = model.model(**inputs).last_hidden_state
    assert torch.equal(model(**inputs, return_dict=False)[0], logits)
    assert torch.equal(model.model(**inputs, return_dict=False)[0], hidden)
    last, (pooled,) = model.get_image_features(pixels(1), return_dict=False)
    assert torch.equal(last, features.last_hidden_state) and torch.equal(pooled, features.pooler_output[0])
    model.config.return_dict = False
    assert torch.equal(model(**inputs)[0], logits)
