"""A checkpoint with its card on a Hub on loopback."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from fourfold.assistant.checkpoints.bridge import BRIDGE as SHIPPED
from fourfold.assistant.checkpoints.hub.model_card import model_card
from fourfold.assistant.checkpoints.resolve import resolve_model
from fourfold.cli.main import app
from fourfold.prompts.errors import UserError
from tests.assistant.checkpoints.hub.fake_hub import FakeHub

HELD_OUT = {
    "photos": {
        "items_per_kind": 100,
        "date": "2026-11-21T14:31:04+00:00",
        "figures": {
            "existence: accuracy": {
                "image": [91.0, 85.6, 96.4],
                "wrong-image": [55.0, 47.0, 63.0],
                "blind": [54, 47, 61],
            },
            "caption: loss (nats a token)": {"image": [2.488, 2.331, 2.645], "wrong-image": [3.55, 3.37, 3.73]},
        },
    }
}
BRIDGE = {
    "base": "fourfold-mini-base",
    "data": {"photos": {"coco": 1.0, "daquar": 0.3}, "scenes": 3000, "note": "Trained on photos for research use."},
    "steps": 220,
    "seed": 3,
    "held_out": HELD_OUT,
}


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """One with a story, and with files beside it that are nobody's business."""
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "mine"))
    (copy / "bridge.json").write_text(json.dumps(BRIDGE))
    (copy / "README.md").write_text("# mine\n\n## Parts\nA tower (MIT).\n")
    (copy / "LICENSE-CLIP.txt").write_text("MIT")
    (copy / ".secret.json").write_text("{}")
    (copy / "optimizer.pt").write_bytes(b"pickle")
    return copy


def push(*words: str) -> tuple[int, str, BaseException | None]:
    done = CliRunner().invoke(app, ["push", *words])
    return done.exit_code, done.stdout, done.exception


def test_a_checkpoint_is_pushed_in_one_commit_and_comes_back(
    hub: FakeHub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    code, said, error = push(str(checkpoint), "me/mine", "--private")
    assert code == 0, error
    assert said.strip() == f"{hub.address}/me/mine/commit/{hub.commit('me/mine')}"
    assert hub.private == {"me/mine": True}
    assert sum("/commit/" in line for line in hub.asked) == 1
    pushed = hub.repositories["me/mine"]
    assert pushed is not None
    kept = {path.name for path in checkpoint.iterdir()} - {".secret.json", "optimizer.pt"}
    assert set(pushed) == kept
    assert pushed["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    back = resolve_model("me/mine", lambda event: None)
    assert (back / "model.safetensors").read_bytes() == pushed["model.safetensors"]
    assert push(str(checkpoint), "me/mine")[0] == 0, "again, to what exists"


def test_the_card_has_what_the_hub_reads_and_what_people_need(checkpoint: Path) -> None:
    card = ModelCard(model_card(checkpoint, "me/mine"))
    assert card.data.license == "other"
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-text-to-text"
    assert card.data.base_model == ["openai/clip-vit-base-patch16", "HuggingFaceTB/SmolLM2-135M-Instruct"]
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results == {"existence: accuracy": 91.0, "caption: loss (nats a token)": 2.488}
    for said in (
        "A tower (MIT).",
        "--model me/mine",
        "Trained on photos for research use.",
        "| daquar | 0.3 |",
        "220 steps, seed 3",
        "Held-out photos (100 a row, 2026-11-21)",
        "| existence: accuracy | 91.0 [85.6, 96.4] | 55.0 [47.0, 63.0] | 54.0 [47.0, 61.0] |",
        "| caption: loss (nats a token) | 2.49 [2.33, 2.65] | 3.55 [3.37, 3.73] |  |",
        "## Limits",
    ):
        assert said in card.text, said
    assert ModelCard(model_card(checkpoint, "me/mine", license="mit")).data.license == "mit"


def test_a_checkpoint_with_code_beside_it_says_how_to_load_it_alone(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration.C"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    text = model_card(checkpoint, "me/mine")
    code = text.partition("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")
    assert 'from_pretrained("me/mine", trust_remote_code=True)' in code
    del config["auto_map"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert "trust_remote_code" not in model_card(checkpoint, "me/mine")


def test_without_a_story_the_card_says_so_and_a_card_of_ones_own_stays(checkpoint: Path) -> None:
    (checkpoint / "bridge.json").unlink()
    (checkpoint / "README.md").unlink()
    card = ModelCard(model_card(checkpoint, "me/mine"))
    assert "Nothing was measured" in card.text
    assert card.data.eval_results is None
    assert card.data.base_model is None
    own = "---\nlicense: mit\n---\n\n# Mine\n"
    (checkpoint / "README.md").write_text(own)
    assert model_card(checkpoint, "me/mine") == own


@pytest.mark.parametrize("told", ["{", "[]", '{"held_out": {"photos": {}}}', '{"data": {"photos": {"coco": "much"}}}'])
def test_a_damaged_story_is_a_sentence(checkpoint: Path, told: str) -> None:
    (checkpoint / "bridge.json").write_text(told)
    with pytest.raises(UserError, match=r"bridge\.json is damaged"):
        model_card(checkpoint, "me/mine")


def test_a_dry_run_shows_the_card_and_sends_nothing(hub: FakeHub, checkpoint: Path) -> None:
    done = CliRunner().invoke(app, ["push", str(checkpoint), "me/mine", "--dry-run"])
    assert done.stdout.strip() == model_card(checkpoint, "me/mine").strip()
    assert "model.safetensors: " in done.stderr
    assert "optimizer" not in done.stderr
    assert hub.asked == []


def test_what_the_hub_refuses_is_said_in_a_sentence(
    hub: FakeHub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(said: str, *words: str) -> None:
        with pytest.raises(UserError, match=said) as caught:
            raise push(*words)[2] or AssertionError("it was pushed")
        assert "\n" not in str(caught.value)

    refused(r"pushing me/mine: the Hub refuses \(401\).*HF_TOKEN", str(checkpoint), "me/mine")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(r"the Hub refuses \(403\).*is allowed to", str(checkpoint), "me/mine")
    refused("no name on the Hub", str(checkpoint), "mine")
    refused("no name on the Hub", str(checkpoint), "me/mine@main")
    (checkpoint / "tokenizer.json").unlink()
    refused(r"lacks tokenizer\.json", str(checkpoint), "me/mine")
    assert hub.repositories == {}


def test_without_the_network_nothing_is_pushed(hub: FakeHub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot be reached"):
        raise push(str(checkpoint), "me/mine")[2] or AssertionError
    monkeypatch.setenv("FOURFOLD_OFFLINE", "1")
    with pytest.raises(UserError, match="FOURFOLD_OFFLINE is set"):
        raise push(str(checkpoint), "me/mine")[2] or AssertionError


def test_the_card_of_the_shipped_bridge_is_whole_and_that_of_a_merged_one_claims_nothing(checkpoint: Path) -> None:
    shipped = json.loads((SHIPPED / "bridge.json").read_text())
    (checkpoint / "bridge.json").write_text(json.dumps(shipped))
    card = ModelCard(model_card(checkpoint, "me/mine"))
    measured = shipped["held_out"]
    assert {result.metric_name for result in card.data.eval_results} == {
        figure for source in measured.values() for figure in source["figures"]
    }
    assert "None" not in card.text
    taught = {name: told for name, told in shipped.items() if name != "held_out"}
    (checkpoint / "bridge.json").write_text(json.dumps({**taught, "merged": {"adapter": "taught", "sha256": "0"}}))
    card = ModelCard(model_card(checkpoint, "me/mine"))
    assert not card.data.eval_results and "Nothing was measured" in card.text
