"""`fourfold refine` from the command line to what it prints.

Training and gate are stood in for by quick ones that write what the real ones write: what they measure has tests of its
own, here it is about what the commands make of it.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import fourfold.assistant.refine.training.learn
import fourfold.cli.main as cli
import fourfold.eval.gate
from fourfold.assistant.checkpoints.fingerprint import model_fingerprint
from fourfold.assistant.progress import OnProgress, Progress, read_progress
from fourfold.assistant.refine.registry import Registry
from fourfold.assistant.refine.store import CorrectionStore
from fourfold.eval.endpoint import EndpointModel
from fourfold.eval.gate import GateResult
from fourfold.prompts.errors import UserError
from tests.assistant.refine.corrections import correction, encoded, picture


@dataclass
class Workshop:
    """Runs the command, and says how the trainings and gates that it starts shall go."""

    store: CorrectionStore
    model: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    promotable: bool = True
    trained: list[list[str]] = field(default_factory=list)
    during_training: Callable[[], object] = lambda: None
    baselines: list[str | None] = field(default_factory=list)
    served: list[object] = field(default_factory=list)

    def __call__(self, *words: object) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of `fourfold refine WORDS --store ...`."""
        arguments = ["fourfold", "refine", *map(str, words), "--store", str(self.store.directory)]
        if words[0] in ("train", "gate", "forget"):
            arguments += ["--model", str(self.model)]
        self.monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as caught:
            cli.main()
            sys.exit(0)
        out, err = self.capsys.readouterr()
        return int(caught.value.code or 0), out, err

    def json(self, *words: object) -> dict[str, Any]:
        """What it prints with --json; it must succeed."""
        code, out, err = self(*words, "--json")
        assert code == 0, err
        assert out.count("\n") == 1
        return json.loads(out)

    def train(self, store: Path, model: Path, out: Path, *, on_progress: OnProgress, **_: object) -> Path:
        """A training whose weights depend on the corrections alone."""
        ids = [record.id for record in CorrectionStore(store).list(consented=True)]
        if not ids:
            raise UserError("there is nothing to learn")
        self.during_training()
        on_progress(Progress("looking at the images"))
        on_progress(Progress("learning", 1, 2, 0.5))
        self.trained.append(ids)
        out.mkdir(parents=True)
        data = hashlib.sha256(str(sorted(ids)).encode()).hexdigest()
        torch.manual_seed(int(data[:8], 16))
        weights = {f"base_model.model.lora_{side}.weight": torch.randn(2, 2) for side in "AB"}
        save_file(weights, out / "adapter_model.safetensors", metadata={"format": "pt"})
        (out / "adapter_config.json").write_text("{}")
        told = {"learnt": ids[:-1], "kept": ids[-1:], "held_out": [], "doubtful": [{"id": "x", "reason": "odd"}]}
        training = {"model": model_fingerprint(model), "data": data, "corrections": told}
        (out / "training.json").write_text(json.dumps(training))
        return out

    def gate(
        self,
        store: Path,
        model: Path,
        adapter: Path,
        *,
        out: Path,
        baseline: Path | None,
        served: tuple[EndpointModel, EndpointModel] | None,
        seed: int,
        on_progress: OnProgress,
    ) -> GateResult:
        """A gate that says what it is told."""
        self.baselines.append(baseline and baseline.name)
        self.served.append(served and [(*one.urls, one.identity, one.api_key) for one in served])
        on_progress(Progress("after", 3, 3))
        out.mkdir(parents=True, exist_ok=True)
        report = out / "gate.html"
        report.write_text("pictures")
        reason = "it got better" if self.promotable else "colour got worse"
        return GateResult(self.promotable, (reason,), "corrections seen", (), (), report)


@pytest.fixture
def refine(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Workshop:
    workshop = Workshop(CorrectionStore(tmp_path / "store"), tiny_checkpoint, monkeypatch, capsys)
    monkeypatch.setattr(fourfold.assistant.refine.training.learn, "train", workshop.train)
    monkeypatch.setattr(fourfold.eval.gate, "gate", workshop.gate)
    monkeypatch.delenv("FOURFOLD_ADMIN_KEY", raising=False)
    return workshop


def fill(store: CorrectionStore, count: int = 3) -> Sequence[str]:
    return [store.add(correction(number, id=f"c{number}"), encoded(picture(number))).id for number in range(count)]


def test_what_is_exported_can_be_imported(refine: Workshop, tmp_path: Path) -> None:
    fill(refine.store)
    file = tmp_path / "out" / "mine.jsonl"
    assert refine.json("export", file) == {"exported": 3, "file": str(file)}
    assert refine.json("import", file) == {"added": 0, "known": 3, "forgotten": 0}
    refine("forget", "c1")
    assert "0 corrections imported, 2 known already, 1 forgotten before" in refine("import", file)[1]


def test_a_bad_line_is_one_line(refine: Workshop, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('\n{"image": "none.png"}\n')
    code, out, err = refine("import", tmp_path / "bad.jsonl")
    assert (code, out) == (2, "")
    assert err.startswith("fourfold: ")
    assert "line 2" in err
    assert err.count("\n") == 1


def test_images_of_benchmarks_are_kept_out(refine: Workshop, tmp_path: Path) -> None:
    folder = tmp_path / "gqa"
    (folder / "deep").mkdir(parents=True)
    for number in range(2):
        (folder / "deep" / f"{number}.PNG").write_bytes(encoded(picture(number)))
    (folder / "notes.txt").write_text("x")
    (folder / "broken.jpg").write_text("x")
    fill(refine.store, 1)
    told = refine.json("exclude", folder)
    assert (told["new"], told["known"], told["corrections_on_them"]) == (2, 0, ["c0"])
    assert [Path(name).name for name in told["unreadable"]] == ["broken.jpg"]
    assert refine.json("exclude", folder, "--name", "gqa")["known"] == 2
    code, _, err = refine("train")
    assert code == 2
    assert "excluded as a benchmark's: c0" in err
    with pytest.raises(UserError, match=r"benchmark \(gqa\)"):
        refine.store.add(correction(), encoded(picture(1)))
    for words, message in ((("exclude",), "--card"), (("exclude", tmp_path / "nothing"), "no such file")):
        code, _, err = refine(*words)
        assert code == 2
        assert message in err


def test_from_training_to_rollback(refine: Workshop) -> None:
    fill(refine.store)
    code, _, err = refine("promote")
    assert code == 2
    assert "no adapter was trained yet" in err
    trained = refine.json("train", "--max-steps", 3)
    first = trained["revision"]
    assert trained["corrections"]["doubtful"] == [{"id": "x", "reason": "odd"}]
    code, _, err = refine("promote")
    assert code == 2
    assert "was not measured" in err
    gate = refine.json("gate")
    assert (gate["revision"], gate["promotable"], gate["summary"]["reasons"]) == (first, True, ["it got better"])
    assert Path(gate["report"]).read_text() == "pictures"
    assert refine.json("promote") == {"current": first, "previous": None}
    refine.store.add(correction(9, id="c9"), encoded(picture(9)))
    second = refine.json("train")["revision"]
    refine.promotable = False
    code, out, _ = refine("gate", second[:6])
    assert code == 0
    assert f"adapter {second} is refused" in out
    assert "colour got worse" in out
    code, _, err = refine("promote", second)
    assert code == 2
    assert "the gate refused" in err
    assert refine.json("promote", second, "--force") == {"current": second, "previous": first}
    code, out, _ = refine("history")
    assert code == 0
    assert f"* {second}" in out
    assert f"on {first}, gate: refused" in out
    assert f"promoted {second} (forced)" in out
    assert refine.json("rollback") == {"current": first, "previous": None}
    told = refine.json("history")
    assert [entry["id"] for entry in told["revisions"]] == [first, second]
    assert told["revisions"][1]["parent"] == first
    assert told["events"][-1]["what"] == "rolled back"
    assert "as it was shipped" in refine("rollback")[1]
    assert refine("rollback")[0] == 2


def test_a_second_adapter_is_gated_against_the_promoted_one(refine: Workshop) -> None:
    fill(refine.store)
    first = refine.json("train")["revision"]
    refine("gate")
    refine("promote")
    refine("gate", first)  # the promoted one itself, against what was there before it
    refine.store.add(correction(9, id="c9"), encoded(picture(9)))
    second = refine.json("train")["revision"]
    refine("gate", second)
    refine("promote", second)
    refine("gate", second)
    refine("rollback")
    refine("rollback")
    refine("gate", second)
    assert refine.baselines == [None, None, first, first, None]


def test_an_adapter_of_another_checkpoint_is_no_baseline(refine: Workshop) -> None:
    fill(refine.store)
    revision = refine.json("train")["revision"]
    registry = Registry(refine.store.directory)
    shutil.copytree(registry.path(revision), registry.directory / "other")
    (registry.directory / "other" / "adapter_config.json").unlink()
    (registry.directory / "other" / "adapter_config.json").write_text('{"of": "another model"}')
    other = registry.register(registry.directory / "other", base="another", data="", records=[])
    registry.promote(other.id, force=True)
    refine("gate", revision)
    assert refine.baselines == [None]


def test_an_adapter_that_a_server_has_is_gated_there(refine: Workshop) -> None:
    fill(refine.store)
    url = "http://127.0.0.1:9/v1"
    first = refine.json("train")["revision"]
    refine("promote", "--force")
    refine.store.add(correction(9, id="c9"), encoded(picture(9)))
    refine("train")
    assert refine("gate", "--endpoint", url, "--served-model", "new", "--api-key", "k")[0] == 0
    refine("gate", "--endpoint", url, "--served-model", "new", "--served-baseline", "old")
    assert refine.served == [
        [(url, "fourfold-refined", "k"), (url, "new", "k")],
        [(url, "old", "none"), (url, "new", "none")],
    ]
    assert refine.baselines == [first, first]
    for words in (("--endpoint", url), ("--served-model", "new"), ("--served-baseline", "old")):
        code, _, err = refine("gate", *words)
        assert code == 2 and "go together" in err


def test_progress_is_told_in_lines_for_programs(refine: Workshop) -> None:
    fill(refine.store)
    code, out, err = refine("train", "--json", "--progress", "json")
    assert code == 0 and json.loads(out)["revision"]
    events = [read_progress(line) for line in err.splitlines()]
    assert events == [Progress("looking at the images"), Progress("learning", 1, 2, 0.5)]
    code, out, err = refine("gate", "--json", "--progress", "json")
    assert [read_progress(line) for line in err.splitlines()] == [Progress("after", 3, 3)]
    refine("promote")
    err = refine("forget", "c1", "--progress", "json")[2]
    assert [event.stage for line in err.splitlines() if (event := read_progress(line))][-2:] == ["learning", "after"]
    err = refine("train")[2]
    assert "learning, loss 0.50" in err and read_progress(err.splitlines()[-1]) is None


def test_a_forgotten_correction_leaves_the_adapter_too(refine: Workshop) -> None:
    fill(refine.store)
    registry = Registry(refine.store.directory)
    old = refine.json("train")["revision"]
    refine("gate")
    refine("promote")
    told = refine.json("forget", "c1")
    assert refine.trained == [["c0", "c1", "c2"], ["c0", "c2"]]
    assert refine.baselines == [None, None]
    assert (told["forgotten"], told["still_in"], told["current"]) == ("c1", None, told["rebuilt"])
    assert told["rebuilt"] != old
    state = registry.state()
    assert state.promoted == (told["rebuilt"],)
    assert state.revisions[old].removed
    assert not (refine.store.directory / "adapters" / old).exists()
    assert not (refine.store.directory / "gates" / old).exists()
    assert f"- {old}" in refine("history")[1]
    refine.promotable = False  # the next rebuilding is refused: better none than one that holds it
    told = refine.json("forget", "c2")
    assert told["current"] is None
    assert registry.holding(["c2"]) == []
    assert [revision.removed for revision in registry.state().revisions.values()] == [True, True, False]


def test_forgetting_the_last_correction_returns_to_the_model(refine: Workshop) -> None:
    fill(refine.store, 1)
    refine("train")
    refine("promote", "--force")
    code, out, _ = refine("forget", "c0")
    assert code == 0
    assert "current is the model as it was shipped (there is nothing to learn)" in out
    assert list((refine.store.directory / "adapters").iterdir()) == []


def test_without_rebuilding_it_says_what_still_holds_it(refine: Workshop) -> None:
    fill(refine.store)
    old = refine.json("train")["revision"]
    refine("promote", "--force")
    code, out, _ = refine("forget", "c1", "--no-rebuild")
    assert code == 0
    assert f"the current adapter {old} still holds" in out
    assert "still holds what was forgotten: c1" in refine("history")[1]
    new = refine.json("train")["revision"]
    code, _, err = refine("promote", old, "--force")
    assert code == 2
    assert "train again without it" in err
    assert refine.json("promote", new, "--force") == {"current": new, "previous": None}
    assert not (refine.store.directory / "adapters" / old).exists()
    assert refine("forget", "zz")[0] == 2


def test_forgetting_that_was_interrupted_is_gone_on_with(refine: Workshop) -> None:
    """Killed once the correction was gone, the command left an adapter that has learnt it, and refused to go on."""
    fill(refine.store)
    registry = Registry(refine.store.directory)
    unused = refine.json("train")["revision"]
    refine("forget", "c0", "--no-rebuild")
    old = refine.json("train")["revision"]
    refine("promote", "--force")
    refine.store.forget("c1")
    told = refine.json("forget", "c1")
    assert told["current"] == told["rebuilt"] not in (None, old, unused)
    assert registry.holding(["c0", "c1"]) == []
    code, _, err = refine("forget", "c1")
    assert code == 2 and "was forgotten on" in err


def test_an_adapter_that_nobody_uses_goes_with_its_correction(refine: Workshop) -> None:
    fill(refine.store)
    refine("train")
    told = refine.json("forget", "c1")
    assert (told["still_in"], told["rebuilt"]) == (None, None)
    assert list((refine.store.directory / "adapters").iterdir()) == []


def test_what_is_forgotten_during_a_training_is_not_learnt(refine: Workshop) -> None:
    fill(refine.store)
    refine.during_training = lambda: CorrectionStore(refine.store.directory).forget("c1")
    code, _, err = refine("train")
    assert code == 2
    assert "forgotten while they were learnt" in err
    assert Registry(refine.store.directory).state().revisions == {}
    assert list((refine.store.directory / "adapters").iterdir()) == []


def test_a_server_that_is_not_there_changes_nothing(refine: Workshop) -> None:
    fill(refine.store)
    refine("train")
    code, _, err = refine("promote", "--force", "--endpoint", "http://127.0.0.1:9/v1")
    assert code == 2
    assert "does not answer" in err
    assert Registry(refine.store.directory).state().current is None


def test_a_program_that_reads_the_progress_can_interrupt_though_its_parent_ignores_interrupts(tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "from fourfold.cli.refine import ProgressForm, telling\n"
        "with telling(ProgressForm.JSON):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    ignoring = f"trap '' INT; exec {sys.executable} -c \"$CODE\""
    done = subprocess.run(["sh", "-c", ignoring], env={**os.environ, "CODE": code}, capture_output=True, text=True)
    assert "KeyboardInterrupt" in done.stderr
