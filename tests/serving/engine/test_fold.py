"""A checkpoint that folds squares of patches, in both backends of the engine, against the model and a formula."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fourfold.prompts.errors import UserError
from fourfold.serving.engine.engine import Engine
from fourfold.serving.engine.loading import load_checkpoint
from tests.serving.engine.conversations import Reference, ask, conversations, load
from tests.tiny import write_loud_tiny


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of images of 6 x 6 patches, which rows of four do not divide."""
    return write_loud_tiny(tmp_path_factory.mktemp("square") / "checkpoint", image_size=96, fold_shape="square")


def test_projected_features_are_those_of_squares(square: Path) -> None:
    checkpoint = load_checkpoint(square, "float32", "cpu", None)
    assert checkpoint.config.image_seq_length == checkpoint.processor.num_image_tokens == 9
    features = np.random.default_rng(0).normal(size=(3, 36, 32)).astype(np.float32)
    normed = (features - features.mean(-1, keepdims=True)) / np.sqrt(features.var(-1, keepdims=True) + 1e-5)
    cells = [
        np.concatenate([normed[:, 6 * y + x] for y in (top, top + 1) for x in (left, left + 1)], -1)
        for top in (0, 2, 4)
        for left in (0, 2, 4)
    ]
    in_torch = checkpoint.load_in_torch()
    projector = in_torch.model.model.projector
    weight, bias = projector.weight.detach().numpy(), projector.bias.detach().numpy()
    expected = np.stack(cells, 1) @ weight.T + bias
    for backend in (checkpoint.base, in_torch):
        np.testing.assert_allclose(backend.project_features(features), expected, rtol=1e-4, atol=1e-4)


def test_answers_equal_plain_transformers(square: Path) -> None:
    reference = Reference(square)
    with load(square) as engine:
        for messages in conversations():
            completion = ask(engine, messages, max_tokens=12, logprobs=0)
            assert completion.token_ids == reference.greedy(messages, 12)
            reference.check_logprobs(messages, completion, 1e-4)


def test_answers_depend_on_the_shape(square: Path, tmp_path: Path) -> None:
    """Otherwise the tests above could not tell one from the other: the same weights, at 64 px, folded as rows."""
    messages, answers = conversations()[0], []
    for shape in ("row", "square"):
        with load(write_loud_tiny(tmp_path / shape, fold_shape=shape)) as engine:
            answers.append(ask(engine, messages, max_tokens=1, logprobs=0).logprobs)
    (rows,), (squares,) = answers
    assert abs(rows.logprob - squares.logprob) > 1e-3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fold_shape": "row"}, r"6 wide .* folds of 4 \(1 x 4\)"),
        ({"fold_shape": "ring"}, "fold_shape is 'ring'"),
        ({"fold": 8}, "a square 1, 4, 9"),
        ({"fold": 9}, "9 image tokens .* its model wants 4"),
        ({"fold_shape": None}, "fold_shape is None"),
        ({"fold_shape": ["square"]}, "fold_shape is"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_clear_line(
    square: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    copy = shutil.copytree(square, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=said) as caught:
        Engine.load(copy, dtype="float32", device="cpu")
    assert "\n" not in str(caught.value)
