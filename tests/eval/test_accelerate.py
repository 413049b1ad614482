"""Sharing the work of an in-process run: two processes with the environment that `accelerate launch` gives them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from PIL import Image

from fourfold.eval.model import EngineModel
from fourfold.eval.tasks.benchmark_run import RunOptions, run_benchmark

PROGRAM = """
import json, os, sys
import accelerate  # what takes long is imported once for both
from fourfold.cli.eval import app
from fourfold.serving.engine.engine import Engine
children = []
for rank in "01":
    if child := os.fork():
        children.append(child)
        continue
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
    with open(f"{sys.argv[2]}/told-{rank}", "w") as sys.stdout:
        for words in json.loads(sys.argv[1]):
            app(words, standalone_mode=False)
    os._exit(0)
sys.exit(max(os.waitpid(child, 0)[1] for child in children) != 0)
"""


def samples(path: Path) -> list[str]:
    return [json.loads(line)["sample"] for line in path.read_text().splitlines()]


def test_two_processes_share_and_one_goes_on(tmp_path: Path, tiny_checkpoint: Path) -> None:
    rows = []
    for number in range(7):
        Image.new("RGB", (8, 8), (30 * number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append({"question_id": number, "image": f"{number}.png", "text": f"Is there a {number}?", "label": "yes"})
    (tmp_path / "pope.json").write_text("\n".join(map(json.dumps, rows)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = ["--images", tmp_path, "--annotations", tmp_path / "pope.json", "--model", tiny_checkpoint]
    shared = [*map(str, files), "--device", "cpu", "--json", "--out"]
    # Turn by turn, too: the processes meet after every round.
    verbs = [
        ["run", "pope", "--limit", "5", *shared, str(tmp_path / "out")],
        ["converse", "pope", "--limit", "3", *shared, str(tmp_path / "talk")],
    ]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(verbs), str(tmp_path)],
        env={**os.environ, **world},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result, talk = map(json.loads, (tmp_path / "told-0").read_text().splitlines())
    assert (tmp_path / "told-1").read_text() == ""  # only one of the two reports
    assert (result["n"], result["missing"]) == (5, 0)
    assert talk["failed"] == 0 and talk["figures"]["accuracy after doubt"]["n"] == 3
    shares = [samples(tmp_path / "out" / f"answers-{rank}.jsonl") for rank in range(2)]
    assert sorted(map(len, shares)) == [2, 3] and len({*shares[0], *shares[1]}) == 5

    with EngineModel(tiny_checkpoint, device="cpu") as model:
        whole = run_benchmark(RunOptions("pope", tmp_path, tmp_path / "pope.json", tmp_path / "out", model))
    assert whole.asked == 7 and whole.failed == 0
    assert not {*shares[0], *shares[1]} & set(samples(tmp_path / "out" / "answers.jsonl"))
