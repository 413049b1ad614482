"""The box head in numpy against the net in torch that it was fitted as."""

import numpy as np
import pytest
import torch

from fourfold.assistant.readouts.box_head import SHAPES, BoxHead
from fourfold.assistant.readouts.box_training import BoxNet


@pytest.mark.parametrize("grid", [(16, 16), (4, 4), (5, 9)])
def test_it_says_what_the_net_says(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = BoxNet().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)
    maps, priors = 2 * torch.randn(3, 2, *grid), torch.randn(3, 3)
    head = BoxHead({name: weight.numpy() for name, weight in net.state_dict().items()})
    with torch.inference_mode():
        expected = net(maps, priors)
    for found, wanted in zip(head.boxes(maps.numpy(), priors.numpy()), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_mirrored_picture_has_the_mirrored_box() -> None:
    drawn = np.random.default_rng(1)
    head = BoxHead({name: drawn.normal(0, 0.3, shape).astype(np.float32) for name, shape in SHAPES.items()})
    maps, priors = drawn.normal(size=(2, 8, 8)).astype(np.float32), np.zeros(3)
    one, other = head.box(maps, priors), head.box(maps[:, :, ::-1], priors)
    x1, y1, x2, y2 = one.sides
    assert other.sides == pytest.approx((1 - x2, y1, 1 - x1, y2), abs=1e-5)
    assert other.chance == pytest.approx(one.chance, abs=1e-5)
    assert other.point == pytest.approx((1 - one.point[0], one.point[1]), abs=1e-5)


def test_weights_of_another_net_are_refused() -> None:
    weights = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    with pytest.raises(ValueError, match="box head"):
        BoxHead({**weights, "hidden.bias": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="box head"):
        BoxHead({name: weights[name] for name in list(weights)[1:]})
