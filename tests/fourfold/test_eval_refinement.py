"""`fourfold eval run refinement`: what it refuses, and that its options reach the benchmark."""

import json

import pytest
from typer.testing import CliRunner

from fourfold.cli.eval import app
from fourfold.prompts.errors import UserError

RUN = ["run", "refinement"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--endpoint", "http://x"], "give --model only"),
        (["--counts", "8,many"], "--counts is '8,many'"),
        (["--subject", "cats"], "no subject 'cats'"),
        (["--arm", "magic"], "no arm 'magic'"),
    ],
)
def test_what_it_refuses(options, message, tiny_checkpoint, tmp_path):
    model = [] if "--endpoint" in options else ["--model", str(tiny_checkpoint)]
    found = CliRunner().invoke(app, [*RUN, *model, *options, "--out", str(tmp_path)])
    assert isinstance(found.exception, UserError) and message in str(found.exception)


def test_options_reach_the_benchmark(tiny_checkpoint, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "fourfold.eval.experiments.run.run_refinement", lambda options, note: asked.append(options) or []
    )
    options = ["--model", str(tiny_checkpoint), "--counts", "0,32,8", "--subject", "corner", "--arm", "box"]
    options += ["--limit", "40", "--seed", "5", "--source", "scenes", "--out", str(tmp_path), "--json"]
    found = CliRunner().invoke(app, [*RUN, *options], catch_exceptions=False)
    assert json.loads(found.stdout) == []
    (given,) = asked
    assert (given.subjects, given.arms, given.counts) == (("corner",), ("box",), (8, 32))
    assert (given.limit, given.seed, given.sources, given.model) == (40, 5, ("scenes",), tiny_checkpoint)
