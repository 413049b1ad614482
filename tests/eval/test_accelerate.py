"""Sharing the work of an in-process run: two processes, as `accelerate launch` starts them for two GPUs."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from PIL import Image

from fourfold.eval.answerer import Answerer
from fourfold.eval.runner import RunOptions, run_benchmark

ROOT = Path(__file__).parents[2]


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
    # On a machine without GPUs accelerate starts several processes only through its launcher for GPUs.
    launch = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    launch += [f"--main_process_port={port}", "-m", "fourfold.cli"]
    run = ["eval", "run", "pope", "--model", tiny_checkpoint, "--device", "cpu", "--limit", "5", "--json"]
    files = ["--images", tmp_path, "--annotations", tmp_path / "pope.json", "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *launch, *map(str, [*run, *files])],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)  # one object: only one of the two reports
    assert (result["n"], result["missing"]) == (5, 0)
    shares = [samples(tmp_path / "out" / f"answers-{index}.jsonl") for index in range(2)]
    assert sorted(map(len, shares)) == [2, 3] and len({*shares[0], *shares[1]}) == 5

    with Answerer(checkpoint=tiny_checkpoint, device="cpu") as answerer:
        whole = run_benchmark(RunOptions("pope", tmp_path, tmp_path / "pope.json", tmp_path / "out", answerer))
    assert whole.asked == 7 and whole.failed == 0
    assert not {*shares[0], *shares[1]} & set(samples(tmp_path / "out" / "answers.jsonl"))
