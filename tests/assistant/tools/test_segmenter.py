"""Masks: their run lengths, the encoder's attention, and the real segmenter on shapes whose pixels are known."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from fourfold.assistant.grounding import Box
from fourfold.assistant.tools import segment, segmenter
from fourfold.assistant.tools.results import Mask
from fourfold.assistant.tools.tiny_vit import TinyViT, _Block
from fourfold.assistant.training.data.scenes import SIZE, make_scene
from fourfold.prompts.errors import UserError


def test_a_mask_travels_as_coco_writes_it() -> None:
    pixels = np.array([[0, 1, 1], [0, 0, 1]], bool)
    mask = Mask.of(pixels, 0.5)
    assert (mask.size, mask.counts) == ((2, 3), (2, 1, 1, 2))  # down the columns: 0 0, 1, 0, 1 1
    assert mask.box.as_tuple() == (1 / 3, 0, 1, 1)
    assert mask.area == 0.5
    assert Mask.of(np.array([[1, 0]], bool), 1.0).counts == (0, 1, 1)  # outside comes first, be it nothing


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_run_lengths_give_the_pixels_back(share: float) -> None:
    pixels = np.random.default_rng(0).random((7, 5)) < share
    mask = Mask.of(pixels, 1.0)
    assert np.array_equal(mask.pixels, pixels)
    assert sum(mask.counts) == 35
    assert np.array_equal(Mask.model_validate_json(mask.model_dump_json()).pixels, pixels)


def test_windows_of_attention_see_nothing_of_each_other_and_zeros_beyond_the_edge() -> None:
    torch.manual_seed(0)
    block = _Block(width=8, heads=2, window=4).eval()
    torch.nn.init.normal_(block.attn.attention_biases)
    x = torch.randn(1, 8, 6, 8)
    found = block._attend(x)
    assert found.shape == x.shape
    # The lower right window by a formula of its own: rows 4 and 5 of it are there, the others are zeros.
    cells = torch.zeros(4, 4, 8)
    cells[:2] = x[0, :, 4:6, 4:8].permute(1, 2, 0)
    tokens = cells.reshape(16, 8)
    attention = block.attn
    mixed = []
    qkv = attention.qkv(attention.norm(tokens)).view(16, 2, 12)
    for head in range(2):
        query, key, value = qkv[:, head].split(4, dim=-1)
        bias = torch.empty(16, 16)
        for a in range(16):
            for b in range(16):
                bias[a, b] = attention.attention_biases[head, abs(a // 4 - b // 4) * 4 + abs(a % 4 - b % 4)]
        mixed.append(torch.softmax(query @ key.T / 2 + bias, dim=-1) @ value)
    expected = attention.proj(torch.cat(mixed, dim=-1)).view(4, 4, 8)[:2].permute(2, 0, 1)
    torch.testing.assert_close(found[0, :, 4:6, 4:8], expected)


def test_the_encoder_is_sixteen_times_smaller_than_its_picture() -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        assert TinyViT().eval()(torch.randn(1, 3, 128, 128)).shape == (1, 256, 8, 8)


def test_the_norm_over_channels_is_that_of_segment_anything() -> None:
    norm = TinyViT().neck[1]
    x = torch.randn(2, 256, 3, 3)
    centred = x - x.mean(1, keepdim=True)
    torch.testing.assert_close(norm(x), centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt())
    assert not torch.allclose(norm(x), F.layer_norm(x, x.shape[1:]))


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ({}, "a box or a point"),
        ({"box": Box(0.2, 0.2, 0.2, 0.9)}, "no area"),
        ({"point": (1.2, 0.5)}, "outside the picture"),
        ({"point": (float("nan"), 0.5)}, "outside the picture"),
    ],
)
def test_what_cannot_be_segmented_is_one_sentence(prompt: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        segment(Image.new("RGB", (8, 8)), **prompt)


@pytest.mark.mini
def test_the_real_segmenter_finds_the_pixels_of_drawn_shapes() -> None:
    scene = make_scene("t2")
    picture = scene.render()
    for item in scene.items:
        fine = Image.new("1", (4 * SIZE, 4 * SIZE))
        ImageDraw.Draw(fine).polygon([(4 * x, 4 * y) for x, y in item.outline], fill=1)
        true = np.asarray(fine.resize((SIZE, SIZE)))
        mask = segment(picture, box=item.box)
        found = mask.pixels
        assert (found & true).sum() / (found | true).sum() > 0.9
        assert mask.box.iou(item.box) > 0.9
        assert mask.confidence > 0.9
    assert len(segmenter._embeddings) <= 4
    # A strip is a picture too.
    assert segment(Image.new("RGB", (1, 300)), point=(0.5, 0.5)).size == (300, 1)


def test_threads_that_ask_for_it_first_load_it_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    loading = []

    def load() -> None:
        loading.append(threading.current_thread())
        time.sleep(0.05)
        assert loading[-1] is threading.current_thread()
        raise UserError("no weights here")

    def ask(_: int) -> str:
        with pytest.raises(UserError) as refused:
            segment(Image.new("RGB", (8, 8)), box=Box(0, 0, 1, 1))
        return str(refused.value)

    monkeypatch.setattr(segmenter, "_load", load)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, range(2))) == ["no weights here"] * 2
