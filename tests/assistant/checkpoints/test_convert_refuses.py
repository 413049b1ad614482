"""A checkpoint with one thing wrong is never converted, whatever the thing is, and the message names it."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fourfold.assistant.checkpoints.original.convert import convert
from fourfold.assistant.checkpoints.original.parts import open_release
from fourfold.prompts.errors import UserError
from tests.assistant.checkpoints import release_files as tiny
from tests.assistant.checkpoints.release_files import Release, make_release

Tensors = dict[str, torch.Tensor]

REFERENCE = make_release(Path())
PARTS = {"trained": REFERENCE.trained["model"], "vision": REFERENCE.vision, "llama": REFERENCE.llama}
BUFFERS = "rotary_emb.inv_freq"
KEYS = [(part, key) for part, tensors in PARTS.items() for key in tensors if not key.endswith(BUFFERS)]
NAMES = [f"{part}-{key}" for part, key in KEYS]


def release_with(part: str, tensors: Tensors, directory: Path) -> Release:
    """The reference release with other tensors in one part."""
    release = copy.copy(REFERENCE)
    release.directory = directory
    if part == "trained":
        release.trained = {**REFERENCE.trained, "model": tensors}
    else:
        setattr(release, part, tensors)
    return release.write()


def refusal(part: str, tensors: Tensors, directory: Path) -> str:
    with pytest.raises(UserError) as refused:
        open_release(**release_with(part, tensors, directory).paths(), image_size=tiny.IMAGE_SIZE)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_the_reference_is_accepted(tmp_path: Path) -> None:
    open_release(**release_with("vision", REFERENCE.vision, tmp_path).paths(), image_size=tiny.IMAGE_SIZE)


@pytest.mark.parametrize(("part", "key"), KEYS, ids=NAMES)
def test_a_dropped_key(part: str, key: str, tmp_path: Path) -> None:
    message = refusal(part, {name: value for name, value in PARTS[part].items() if name != key}, tmp_path)
    assert key in message and "missing" in message


@pytest.mark.parametrize(("part", "key"), KEYS, ids=NAMES)
def test_a_renamed_key(part: str, key: str, tmp_path: Path) -> None:
    tensors = {(name + "_old" if name == key else name): value for name, value in PARTS[part].items()}
    message = refusal(part, tensors, tmp_path)
    assert "1 missing" in message and "1 unexpected" in message and f"{key}_old" in message


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(0, -1).contiguous()


# A square matrix and its transpose look alike: the projections of attention. Nothing but its numbers could tell.
TELLTALE = [(part, key) for part, key in KEYS if transposed(PARTS[part][key]).shape != PARTS[part][key].shape]


@pytest.mark.parametrize(("part", "key"), TELLTALE, ids=[f"{part}-{key}" for part, key in TELLTALE])
def test_a_transposed_tensor(part: str, key: str, tmp_path: Path) -> None:
    message = refusal(part, PARTS[part] | {key: transposed(PARTS[part][key])}, tmp_path)
    assert key in message and "of another shape" in message


def test_no_tensor_of_the_release_s_own_file_can_be_transposed_unseen() -> None:
    silent = {(part, key) for part, key in KEYS if PARTS[part][key].ndim > 1 and (part, key) not in TELLTALE}
    assert {part for part, _ in silent} == {"vision", "llama"}
    assert {key.split(".")[-2] for _, key in silent} == {"proj", "q_proj", "k_proj", "v_proj", "o_proj"}


LORA = [key for key in PARTS["trained"] if ".lora_" in key]


@pytest.mark.parametrize("key", LORA)
def test_a_wrong_rank(key: str, tmp_path: Path) -> None:
    shape = [size if size != tiny.RANK else tiny.RANK // 2 for size in PARTS["trained"][key].shape]
    message = refusal("trained", PARTS["trained"] | {key: torch.zeros(shape)}, tmp_path)
    assert f"{key} is {shape}" in message


def test_a_rank_that_contradicts_the_configuration(tmp_path: Path) -> None:
    release = release_with("trained", PARTS["trained"], tmp_path)
    release.trained = {**release.trained, "config": {"model": {"lora_r": 64}}}
    with pytest.raises(UserError, match=r"says lora_r 64 .* rank 8"):
        open_release(**release.write().paths(), image_size=tiny.IMAGE_SIZE)


def test_blip_2_s_norm(tmp_path: Path) -> None:
    norm = {"ln_vision.weight": torch.rand(tiny.WIDTH), "ln_vision.bias": torch.rand(tiny.WIDTH)}
    assert "probably BLIP-2's" in refusal("trained", PARTS["trained"] | norm, tmp_path)
    assert "ln_vision" in refusal("vision", PARTS["vision"] | norm, tmp_path)
    assert "ln_vision.bias" in refusal(
        "trained", PARTS["trained"] | {"ln_vision.weight": torch.ones(tiny.WIDTH)}, tmp_path
    )


def test_the_identity_norm_is_harmless(tmp_path: Path) -> None:
    norm = {"ln_vision.weight": torch.ones(tiny.WIDTH), "ln_vision.bias": torch.zeros(tiny.WIDTH)}
    release = release_with("trained", PARTS["trained"] | norm, tmp_path)
    assert "ln_vision.bias" in open_release(**release.paths(), image_size=tiny.IMAGE_SIZE).left_out


def test_the_tower_s_own_head_and_norm_are_left_out(tmp_path: Path) -> None:
    rest = {"norm.weight": torch.rand(9), "norm.bias": torch.rand(9), "head.weight": torch.rand(2, 9)}
    release = release_with("vision", PARTS["vision"] | rest, tmp_path)
    assert set(rest) <= set(open_release(**release.paths(), image_size=tiny.IMAGE_SIZE).left_out)


def test_rotary_frequencies_of_another_model(tmp_path: Path) -> None:
    for part in ("trained", "llama"):
        key = next(key for key in PARTS[part] if key.endswith(BUFFERS))
        assert "other rotary frequencies" in refusal(part, PARTS[part] | {key: PARTS[part][key] * 1.1}, tmp_path)
        assert "other rotary frequencies" in refusal(part, PARTS[part] | {key: torch.ones(3)}, tmp_path)


def with_prefix(tensors: Tensors, prefix: str) -> Tensors:
    return {prefix + key: value for key, value in tensors.items()}


CAUSES: list[tuple[str, Tensors, str]] = [
    ("trained", with_prefix(PARTS["trained"], "module."), "take `module.` off the names"),
    ("trained", {k: v for k, v in PARTS["trained"].items() if "lora" not in k}, "has no LoRA"),
    ("trained", PARTS["vision"], "goes to --vision"),
    ("trained", {"llama_proj.weight": torch.zeros(64, 768), "llama_proj.bias": torch.zeros(64)}, "of MiniGPT-4"),
    ("trained", PARTS["trained"] | {"Qformer.bert.x": torch.zeros(1)}, "of MiniGPT-4 or BLIP-2"),
    (
        "trained",
        {k.replace("v_proj", "k_proj"): v for k, v in PARTS["trained"].items()},
        "other modules than q_proj and v_proj",
    ),
    (
        "trained",
        {k: v for k, v in PARTS["trained"].items() if "layers.1" not in k},
        "a LLaMA of 1 layers; --llama has 2",
    ),
    ("trained", PARTS["trained"] | {"llama_proj.bias": torch.zeros(80)}, "a LLaMA 80 wide; --llama is 64 wide"),
    ("trained", PARTS["trained"] | {"visual_encoder.cls_token": torch.zeros(1)}, "holds more than MiniGPT-v2 trains"),
    ("vision", with_prefix(PARTS["vision"], "visual_encoder."), "a whole BLIP-2 or MiniGPT-4"),
    ("vision", with_prefix(PARTS["vision"], "visual."), "EVA-CLIP's own file"),
    ("vision", PARTS["trained"], "goes to --checkpoint"),
    (
        "vision",
        {k.replace("q_bias", "qkv.bias"): v for k, v in PARTS["vision"].items()},
        "converted for another library",
    ),
    ("llama", {k: v for k, v in PARTS["llama"].items() if "layers.1" not in k}, "Shards are incomplete"),
    ("llama", PARTS["llama"] | {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(1)}, "an adapter in it"),
    ("llama", PARTS["llama"] | {"lm_head.weight": torch.zeros(1, 64)}, "vocabulary was changed"),
]


@pytest.mark.parametrize(("part", "tensors", "cause"), CAUSES, ids=[cause for _, _, cause in CAUSES])
def test_likely_causes(part: str, tensors: Tensors, cause: str, tmp_path: Path) -> None:
    message = refusal(part, tensors, tmp_path)
    assert cause in message
    assert len(message) < 2500, "about ten keys, not all"


def test_long_lists_are_cut(tmp_path: Path) -> None:
    message = refusal("llama", {k: v for k, v in PARTS["llama"].items() if "layers.1" not in k}, tmp_path)
    assert "9 missing" in message and " more" not in message
    message = refusal("trained", with_prefix(PARTS["trained"], "module."), tmp_path)
    assert "10 missing" in message and "10 unexpected" in message
    message = refusal("vision", PARTS["vision"] | {f"x{i}": torch.zeros(1) for i in range(30)}, tmp_path)
    assert "30 unexpected" in message and "x9 and 20 more" in message


def test_old_and_new_name_of_one_tensor(tmp_path: Path) -> None:
    key = LORA[0]
    newer = key.replace(".lora_A.", ".lora_A.default.")
    assert "the same tensor" in refusal("trained", PARTS["trained"] | {newer: PARTS["trained"][key]}, tmp_path)


def test_the_full_size_tower_must_have_forty_blocks() -> None:
    from fourfold.assistant.checkpoints.original.release import VisionLayout, read_vision_layout
    from fourfold.assistant.checkpoints.original.tensor_files import TensorFiles

    def layout(width: int, blocks: int) -> VisionLayout:
        shapes = VisionLayout(width=width, mlp=6144, patch=14, blocks=blocks, grid=16).shapes()
        return read_vision_layout(TensorFiles("the image tower", (Path("eva_vit_g.pth"),), shapes))

    config = layout(1408, 40).config(448)
    assert (config.num_hidden_layers, config.num_attention_heads, config.intermediate_size) == (39, 16, 6144)
    with pytest.raises(UserError, match="has 39 blocks, the release's 40"):
        layout(1408, 39)
    with pytest.raises(UserError, match="head size 88"):
        layout(100, 3)


def test_nan_is_refused(tmp_path: Path) -> None:
    broken = PARTS["llama"]["lm_head.weight"].clone()
    broken[3, 3] = torch.nan
    release = release_with("llama", PARTS["llama"] | {"lm_head.weight": broken}, tmp_path)
    with pytest.raises(UserError, match=r"lm_head\.weight holds NaN"):
        convert(**release.paths(), out=tmp_path / "out", image_size=tiny.IMAGE_SIZE)
    assert not (tmp_path / "out").exists()


# -- files that are not what their name says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a Git LFS pointer"),
        (b"", "is empty"),
        (b"PK\x03\x04 cut off", "damaged or incomplete"),
    ],
)
def test_files_that_are_something_else(content: bytes, says: str, tmp_path: Path) -> None:
    release = release_with("vision", PARTS["vision"], tmp_path)
    for path in (release.checkpoint_path, release.vision_path, release.llama_path / "model.safetensors"):
        good = path.read_bytes()
        path.write_bytes(content)
        expected = "cannot be read" if says.startswith("damaged") and path.suffix == ".safetensors" else says
        with pytest.raises(UserError, match=expected):
            open_release(**release.paths(), image_size=tiny.IMAGE_SIZE)
        path.write_bytes(good)


def test_a_file_with_objects_is_not_run(tmp_path: Path) -> None:
    """What an OmegaConf configuration in the file amounts to: an object whose loading would run code."""
    release = release_with("vision", PARTS["vision"], tmp_path)
    torch.save({**REFERENCE.trained, "config": Trap()}, release.checkpoint_path)
    with pytest.raises(UserError, match=r"Python objects besides tensors.*weights_only=False.*tensors\.pth"):
        open_release(**release.paths(), image_size=tiny.IMAGE_SIZE)
    assert not Trap.sprung


class Trap:
    sprung = False

    def __reduce__(self) -> Any:
        return _spring, ()


def _spring() -> None:
    Trap.sprung = True


def test_the_format_before_pytorch_1_6_and_a_bare_state_dict(tmp_path: Path) -> None:
    release = release_with("vision", PARTS["vision"], tmp_path)
    torch.save(PARTS["vision"], release.vision_path, _use_new_zipfile_serialization=False)
    torch.save(PARTS["trained"], release.checkpoint_path)
    assert open_release(**release.paths(), image_size=tiny.IMAGE_SIZE).scale == 2.0


def test_missing_files(tmp_path: Path) -> None:
    release = release_with("vision", PARTS["vision"], tmp_path)
    paths = release.paths()
    for name in ("checkpoint", "vision"):
        with pytest.raises(UserError, match="cannot be opened: No such file"):
            open_release(**{**paths, name: tmp_path / "nothing"}, image_size=tiny.IMAGE_SIZE)
    with pytest.raises(UserError, match="there is no directory"):
        open_release(**{**paths, "llama": tmp_path / "nothing"}, image_size=tiny.IMAGE_SIZE)
    (release.llama_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"no usable config\.json"):
        open_release(**paths, image_size=tiny.IMAGE_SIZE)
    (release.llama_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(UserError, match="holds a gpt2"):
        open_release(**paths, image_size=tiny.IMAGE_SIZE)


def test_missing_shards(tmp_path: Path) -> None:
    release = release_with("vision", PARTS["vision"], tmp_path).write(llama_format="bin")
    (release.llama_path / "model.safetensors").unlink()
    (release.llama_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(UserError, match=r"lacks pytorch_model-00002-of-00002\.bin"):
        open_release(**release.paths(), image_size=tiny.IMAGE_SIZE)
    for path in release.llama_path.glob("pytorch_model*"):
        path.unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor"):
        open_release(**release.paths(), image_size=tiny.IMAGE_SIZE)
    (release.llama_path / "consolidated.00.pth").touch()
    with pytest.raises(UserError, match="Meta's own format"):
        open_release(**release.paths(), image_size=tiny.IMAGE_SIZE)


def test_an_image_size_that_does_not_divide(tmp_path: Path) -> None:
    release = release_with("vision", PARTS["vision"], tmp_path)
    with pytest.raises(UserError, match="not a multiple of patch_size"):
        open_release(**release.paths(), image_size=100)
    with pytest.raises(UserError, match="does not divide into folds"):
        open_release(**release.paths(), image_size=14 * 6)
