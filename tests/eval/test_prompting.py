"""Ways of asking by name: what the recipe sends, what it refuses, and its one or two BOS."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from fourfold.assistant.grounding import BoxFormat
from fourfold.eval.benchmarks import BENCHMARKS
from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.model import EngineModel
from fourfold.eval.prompting import PromptConfig, resolve_config
from fourfold.eval.tasks.benchmark_run import RunOptions, run_benchmark
from fourfold.prompts.chat import load_template
from fourfold.prompts.errors import UserError
from tests.eval.scripted import Script, endpoint


def test_the_release_is_one_name() -> None:
    assert resolve_config("minigpt-v2", "okvqa") == PromptConfig(
        "minigpt4", 20, BoxFormat.TOKENS, "minigpt-v2", {"double_bos": True}
    )
    assert resolve_config("minigpt-v2", "iconvqa").template == {"double_bos": False}
    # What agrees with it may be said too.
    assert resolve_config("minigpt-v2", "gqa", wording="minigpt4", max_tokens=20) == resolve_config("minigpt-v2", "gqa")
    assert resolve_config(None, "gqa", wording="plain", max_tokens=64) == PromptConfig("plain", 64)


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
        resolve_config("minigpt-v2", "okvqa", **options)


def test_unknown_recipes_and_benchmarks_without_one() -> None:
    with pytest.raises(UserError, match="no recipe is called 'llava'; there is: minigpt-v2"):
        resolve_config("llava", "okvqa")
    with pytest.raises(UserError, match="has no detection"):
        resolve_config("minigpt-v2", "detection")
    assert all(resolve_config(None, name).max_tokens >= 20 for name in BENCHMARKS)


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
                    EndpointModel([script.url]),
                    prompting=resolve_config(recipe, name),
                )
            )
            (body,) = script.bodies
        assert body.get("chat_template_kwargs") == ({"double_bos": two} if recipe else None)
        assert (body["temperature"], body["max_tokens"]) == (0, 20)
    configuration = json.loads((tmp_path / "minigpt-v2" / "run.json").read_text())["configuration"]
    assert (configuration["recipe"], configuration["template"]) == ("minigpt-v2", {"double_bos": two})


def test_a_box_in_digits_is_not_cut_off() -> None:
    """`[0.25, 0.50, 0.50, 0.75]` alone is more than twenty tokens, where digits are tokens."""
    for name, expected in (("refcoco", 128), ("detection", 200), ("gqa", 20)):
        assert resolve_config(None, name, wording="plain", box_format=BoxFormat.UNIT).max_tokens == expected
    assert resolve_config(None, "refcoco", box_format=BoxFormat.TOKENS).max_tokens == 20
    assert resolve_config(None, "refcoco", box_format=BoxFormat.UNIT, max_tokens=30).max_tokens == 30


@pytest.mark.parametrize("template", ["minigpt_v2", "chatml"])
def test_a_checkpoint_reads_one_bos_less_where_it_has_the_switch(
    tmp_path: Path, tiny_checkpoint: Path, template: str
) -> None:
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (model / "chat_template.jinja").write_text(load_template(template))
    Image.new("RGB", (8, 8)).save(tmp_path / "7.png")
    row = {"image_id": "7", "question": "what?", "choices": ["cat", "dog"], "answer": 0}
    (tmp_path / "icon.json").write_text(json.dumps([row]))
    scores = {}
    with EngineModel(model) as model:
        for one in (
            resolve_config("minigpt-v2", "iconvqa"),
            resolve_config(None, "iconvqa"),
            PromptConfig(template={"double_bos": True}),
        ):
            out = tmp_path / str(one.template)
            run_benchmark(RunOptions("iconvqa", tmp_path, tmp_path / "icon.json", out, model, prompting=one))
            (record,) = map(json.loads, (out / "answers.jsonl").read_text().splitlines())
            scores[one.template.get("double_bos")] = record["scores"]
    assert scores[True] == scores[None]  # two is the template's own default
    assert (scores[False] == scores[None]) == (template == "chatml")  # which has no such switch
