"""Ways of asking by name: what the recipe sends, what it refuses, and its one or two BOS."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from eval.answerer import Answerer
from eval.benchmarks import BENCHMARKS
from eval.local import LocalModel
from eval.manner import Manner, settle
from eval.metrics.boxes import BoxFormat
from eval.runner import RunOptions, run_benchmark
from prompts.chat import load_template
from prompts.errors import UserError
from serving.requests import Request, Sampling
from tests.eval.scripted import Script, endpoint


def test_the_release_is_one_name() -> None:
    assert settle("minigpt-v2", "okvqa") == Manner("minigpt4", 20, BoxFormat.TOKENS, "minigpt-v2", {"double_bos": True})
    assert settle("minigpt-v2", "iconvqa").template == {"double_bos": False}
    # What agrees with it may be said too.
    assert settle("minigpt-v2", "gqa", wording="minigpt4", max_tokens=20) == settle("minigpt-v2", "gqa")
    assert settle(None, "gqa", wording="plain", max_tokens=64) == Manner("plain", 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wording": "plain"}, "--prompt plain is not the recipe minigpt-v2, which has minigpt4; leave one"),
        ({"max_tokens": 50}, "--max-tokens 50 is not the recipe minigpt-v2, which has 20"),
        ({"box_format": BoxFormat.PIXELS}, "--box-format pixels is not the recipe minigpt-v2, which has tokens"),
        ({"wording": "fancy"}, "no wording is called 'fancy'; there are: minigpt4, plain"),
    ],
)
def test_what_contradicts_it_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settle("minigpt-v2", "okvqa", **options)


def test_unknown_recipes_and_benchmarks_without_one() -> None:
    with pytest.raises(UserError, match="no recipe is called 'llava'; there is: minigpt-v2"):
        settle("llava", "okvqa")
    with pytest.raises(UserError, match="has no detection"):
        settle("minigpt-v2", "detection")
    assert all(settle(None, name).max_tokens >= 20 for name in BENCHMARKS)


@pytest.mark.parametrize(("name", "two"), [("okvqa", True), ("iconvqa", False)])
def test_an_endpoint_is_told_how_many_bos(tmp_path: Path, name: str, two: bool) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "7.png")
    rows = {
        "okvqa": [{"question_id": 1, "image_id": "7", "question": "what?", "answers": ["cat"] * 10}],
        "iconvqa": [{"image_id": "7", "question": "what?", "choices": ["cat", "dog"], "answer": 0}],
    }
    (tmp_path / "a.json").write_text(json.dumps(rows[name]))
    for recipe in (None, "minigpt-v2"):
        with endpoint(Script(answer="cat")) as script:
            run_benchmark(
                RunOptions(
                    name,
                    tmp_path,
                    tmp_path / "a.json",
                    tmp_path / str(recipe),
                    Answerer(endpoints=(script.url,)),
                    manner=settle(recipe, name),
                )
            )
            (body,) = script.bodies
        assert body.get("chat_template_kwargs") == ({"double_bos": two} if recipe else None)
        assert (body["temperature"], body["max_tokens"]) == (0, 20)
    configuration = json.loads((tmp_path / "minigpt-v2" / "run.json").read_text())["configuration"]
    assert (configuration["recipe"], configuration["template"]) == ("minigpt-v2", {"double_bos": two})


def test_a_checkpoint_with_the_switch_reads_one_bos_less(tmp_path: Path, tiny_checkpoint: Path) -> None:
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (model / "chat_template.jinja").write_text(load_template("minigpt_v2"))
    lengths = {}
    for directory in (model, tiny_checkpoint):
        local = LocalModel(directory, "cpu")
        for template in ({"double_bos": True}, {"double_bos": False}, {}):
            engine = local.engine(template)
            request = Request([{"role": "user", "content": "what?"}], Sampling(max_tokens=1))
            lengths[directory, template.get("double_bos")] = engine.generate([request])[0].prompt_tokens
            assert engine is local.engine(template)  # loaded once
        local.close()
    # The tiny tokenizer spells a BOS in letters, so there is more than one token between two and one.
    assert lengths[model, True] == lengths[model, None] > lengths[model, False]
    # A template without the switch is left as it is.
    assert len({lengths[tiny_checkpoint, value] for value in (True, False, None)}) == 1
