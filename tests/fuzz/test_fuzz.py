"""A short slice of `make fuzz`, the same inputs every time; and that what goes wrong there is seen."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fourfold.prompts.errors import UserError
from tests.fuzz import target as target_module
from tests.fuzz.__main__ import fuzz
from tests.fuzz.mutation import Mutator, named, parted, png_checksums, safetensors
from tests.fuzz.target import Target, attempt
from tests.fuzz.targets import TARGETS, make

INPUTS = {
    "images": 250,
    "isolated": 4,
    "chat": 25,
    "decisions": 15,
    "responses": 15,
    "messages": 15,
    "predictions": 150,
    "corrections": 20,
    "boxes": 25,
    "templates": 30,
    "checkpoints": 6,
    "adapters": 15,
    "release": 60,
    "parts": 15,
}
"""By target. Quantised checkpoints are left to `make fuzz`: making one takes longer than all of these."""
SEED = 20_261_128


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture
def made(request: pytest.FixtureRequest, directory: Path) -> Iterator[Target]:
    name = request.node.callspec.params["name"]
    # The four kinds of requests are answered by one server.
    together = TARGETS[name].startswith("bodies:")
    found = make(name, directory / ("bodies" if together else name))
    yield found
    if not together or name == "messages":
        found.close()


def test_every_target_has_a_slice() -> None:
    assert INPUTS.keys() == TARGETS.keys() - {"quantized"}


@pytest.mark.parametrize("name", INPUTS)
def test_slice(name: str, made: Target) -> None:
    for data in made.seeds[:4]:
        taken, finding = attempt(made, data)
        assert finding is None, finding
    mutator, taken = Mutator(SEED), 0
    for number in range(INPUTS[name]):
        data = made.mutate(mutator, made.seeds[number % len(made.seeds)])[: made.longest]
        one, finding = attempt(made, data)
        assert finding is None, f"{finding}: {data!r}"
        taken += one
    # Reading an answer for boxes refuses nothing.
    assert name == "boxes" or taken < INPUTS[name], "nothing was refused, so nothing was hostile"


def test_one_seed_makes_one_series() -> None:
    series = [[Mutator(seed).bytes(bytes(range(99))) for _ in range(3)] for seed in (1, 1, 2)]
    assert series[0] == series[1] != series[2]
    value = b'{"a": [1, {"b": null}], "c": "d"}'
    assert Mutator(3).json(value) == Mutator(3).json(value) != value


def test_flipped_bytes_are_counted() -> None:
    mutator, data = Mutator(5), bytes(1000)
    differ = sum(a != b for a, b in zip(data, mutator.flips(data), strict=True))
    assert 0 < differ <= mutator.flipped  # one byte may be flipped twice


def test_formats_stay_what_they_are() -> None:
    png = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\1tEXtx" + b"\0\0\0\0"
    assert png_checksums(png)[-4:] != png[-4:] and png_checksums(png)[:-4] == png[:-4]
    assert parted(named("a.json", b"x\0y")) == ("a.json", b"x\0y")
    header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    mutated = [safetensors(Mutator(seed), len(header).to_bytes(8, "little") + header + b"1234") for seed in range(20)]
    assert any(one.endswith(b"}1234") and int.from_bytes(one[:8], "little") == len(one) - 12 for one in mutated)


def test_what_counts_as_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def says(error: Exception) -> Target:
        def run(data: bytes) -> None:
            raise error

        return Target([], run)

    assert attempt(Target([], len), b"") == (True, None)
    assert attempt(says(UserError("one line")), b"") == (False, None)
    for error in (ValueError("x"), MemoryError(), RecursionError(), UserError("two\nlines"), UserError(" ")):
        taken, finding = attempt(says(error), b"")
        assert not taken and finding is not None and finding.kind == "exception"
    monkeypatch.setattr(target_module, "SECONDS", 0.01)
    taken, finding = attempt(Target([], lambda data: sum(range(3_000_000))), b"")
    assert taken and finding is not None and finding.kind == "slow"


def test_holes_are_found_and_the_rest_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not here (make fuzz installs it)")
    for seconds in (3, 30):  # where others use the machine, 3 may be over before a second process has begun
        told = fuzz("tests.fuzz.planted:holes", tmp_path / f"planted-{seconds}", 1, seconds)
        kinds = {finding["kind"]: finding for finding in told["findings"]}
        if len(kinds) > 1 and told["processes"] > 1:
            break
    assert kinds.keys() == {"exception", "crash"}
    assert kinds["exception"]["what"] == "KeyError: 'a hole'"
    assert Path(kinds["exception"]["input"]).read_bytes()[:1] == b"e"
    assert Path(kinds["crash"]["input"]).read_bytes()[:1] == b"c"
    assert told["processes"] > 1 and told["executions"] > 2 and told["taken"] > 0


def test_the_command_writes_what_it_did(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not here (make fuzz installs it)")
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--minutes",
        "0.03",
        "--target",
        "predictions",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "summary.json").read_text())["targets"]["predictions"]
    assert told["executions"] > 0 and told["findings"] == []
    assert f"predictions: {told['executions']:,} inputs" in done.stdout
