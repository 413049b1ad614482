"""The launcher, up to the point where it becomes vLLM."""

import argparse
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fourfold.cli.main import main
from fourfold.prompts.errors import UserError
from fourfold.serving.api.keys import Key, KeyRing
from fourfold.serving.engine.engine import Completion
from fourfold.serving.vllm.gate import SETTINGS_VARIABLE
from fourfold.serving.vllm.launch import launch_vllm
from fourfold.serving.vllm.plugin import QUANTIZATION_4BIT
from tests.serving.vllm.conftest import ADMIN_KEY, USER_KEY

pytestmark = pytest.mark.vllm


class Executed(Exception):
    """In place of becoming another program."""

    def __init__(self, program: str, command: list[str], environment: dict[str, str]) -> None:
        super().__init__(program)
        self.command, self.environment = command, environment


Parse = Callable[[Executed], argparse.Namespace]


@pytest.fixture(autouse=True)
def _stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(*arguments: Any) -> None:
        raise Executed(*arguments)

    monkeypatch.setattr(os, "execve", execute)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def executed(directory: Path, port: int, **options: Any) -> Executed:
    with pytest.raises(Executed) as caught:
        launch_vllm(directory, port=port, **options)
    return caught.value


def ring(*, admin: bool) -> KeyRing:
    keys = [Key("user", hashlib.sha256(USER_KEY.encode()).digest(), per_minute=60)]
    return KeyRing([*keys, Key("admin", hashlib.sha256(ADMIN_KEY.encode()).digest(), admin=True)] if admin else keys)


def test_adapters_change_at_run_time_only_with_an_admin_key(checkpoint: Path, port: int) -> None:
    for keys, allowed in ((None, False), (ring(admin=False), False), (ring(admin=True), True)):
        made = executed(checkpoint, port, keys=keys)
        assert ("--enable-lora" in made.command) == allowed
        assert made.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == str(int(allowed))


def test_keys_are_neither_on_the_command_line_nor_in_the_environment(
    checkpoint: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOURFOLD_API_KEYS", USER_KEY)
    monkeypatch.setenv("FOURFOLD_ADMIN_KEY", ADMIN_KEY)
    made = executed(checkpoint, port, keys=ring(admin=True))
    handed_over = [*made.command, *made.environment, *made.environment.values()]
    assert not [text for text in handed_over if USER_KEY in text or ADMIN_KEY in text]


def test_any_free_port(checkpoint: Path) -> None:
    command = executed(checkpoint, 0).command
    assert int(command[command.index("--port") + 1]) > 1023


def test_what_lies_beside_the_weights_is_not_taken_for_weights(
    checkpoint: Path, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "tiny"
    shutil.copytree(checkpoint, directory)
    save_file({"boxes": torch.zeros(2)}, directory / "readouts.safetensors")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("fourfold.assistant.checkpoints.index.write_text", refuse)
        with pytest.raises(UserError, match="make the directory yours, or move the read-outs"):
            launch_vllm(directory, port=port)
    executed(directory, port)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {"model.safetensors"}


def test_given_adapters_are_served_without_loading_at_run_time(checkpoint: Path, port: int, tmp_path: Path) -> None:
    made = executed(checkpoint, port, adapters={"taught": tmp_path})
    assert f"taught={tmp_path}" in made.command
    assert made.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "0"


def test_remote_images_need_a_named_host(checkpoint: Path, port: int) -> None:
    """No `--allowed-media-domains` at all would mean every host."""
    for hosts, domains in (
        ((), ["no-remote-images.invalid"]),
        (("a.example", "b.example"), ["a.example", "b.example"]),
    ):
        command = executed(checkpoint, port, image_hosts=hosts).command
        after = command[command.index("--allowed-media-domains") + 1 :]
        assert after[: len(domains)] == domains
        assert after[len(domains)].startswith("--")


def test_four_bits(checkpoint: Path, port: int) -> None:
    command = executed(checkpoint, port, quantization="4bit").command
    assert command[command.index("--quantization") + 1] == QUANTIZATION_4BIT
    assert command[command.index("--load-format") + 1] == "bitsandbytes"


def test_further_arguments_come_last(checkpoint: Path, port: int) -> None:
    command = executed(checkpoint, port, extra=["--tensor-parallel-size", "2"]).command
    assert command[-2:] == ["--tensor-parallel-size", "2"]


@pytest.fixture
def parsed(local: dict[str, Completion], adapter: Path) -> Parse:
    """Reads a command line with vLLM's own parser, which knows every option or refuses.

    `local` and `adapter` come first because vLLM changes the classes of transformers in this process.
    """
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    def parse(made: Executed) -> argparse.Namespace:
        assert made.command[1:4] == ["-m", "vllm.entrypoints.cli.main", "serve"]
        # As `vllm serve` sees it: the model is its one positional argument.
        read = make_arg_parser(FlexibleArgumentParser()).parse_args(made.command[4:])
        validate_parsed_serve_args(read)
        return read

    return parse


def on_the_command_line(monkeypatch: pytest.MonkeyPatch, *words: str) -> Executed:
    """What `fourfold serve --engine vllm` becomes."""
    monkeypatch.setattr(sys, "argv", ["fourfold", "serve", "--engine", "vllm", *words])
    with pytest.raises(Executed) as caught:
        main()
    return caught.value


PARALLEL = {
    "tensor": (["--tensor-parallel-size", "4"], {"tensor_parallel_size": 4}),
    "pipeline": (["--pipeline-parallel-size", "2"], {"pipeline_parallel_size": 2}),
    "data": (["--data-parallel-size", "4"], {"data_parallel_size": 4}),
    "data, with adapters": (
        ["--data-parallel-size", "2", "--api-server-count", "1"],
        {"data_parallel_size": 2, "api_server_count": 1},
    ),
    "several nodes": (
        [*("--tensor-parallel-size", "8", "--pipeline-parallel-size", "2"), "--distributed-executor-backend", "ray"],
        {"tensor_parallel_size": 8, "pipeline_parallel_size": 2, "distributed_executor_backend": "ray"},
    ),
    "memory": (
        ["--max-model-len", "4096", "--gpu-memory-utilization", "0.8", "--max-num-seqs", "8"],
        {"max_model_len": 4096, "gpu_memory_utilization": 0.8, "max_num_seqs": 8},
    ),
}


@pytest.mark.parametrize("case", PARALLEL)
def test_vllms_own_options_are_passed_through(
    case: str, checkpoint: Path, port: int, parsed: Parse, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, expected = PARALLEL[case]
    made = on_the_command_line(monkeypatch, "--model", str(checkpoint), "--port", str(port), "--", *words)
    read = vars(parsed(made))
    assert {name: read[name] for name in expected} == expected


def test_every_option_of_the_command(
    checkpoint: Path, adapter: Path, port: int, parsed: Parse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{ADMIN_KEY} name=root admin\n")
    made = on_the_command_line(
        monkeypatch,
        *("--model", str(checkpoint), "--host", "0.0.0.0", "--port", str(port)),
        *("--api-key", USER_KEY, "--api-key-file", str(keys), "--rate-limit", "30"),
        *("--quantization", "4bit", "--adapter", str(adapter)),
        *("--allow-image-host", "a.example", "--allow-image-host", "b.example"),
    )
    read = parsed(made)
    assert (read.host, read.port, read.served_model_name) == ("0.0.0.0", port, [checkpoint.name])
    assert (read.quantization, read.load_format) == (QUANTIZATION_4BIT, "bitsandbytes")
    assert [(module.name, module.path) for module in read.lora_modules] == [("taught", str(adapter))]
    assert read.enable_lora and read.max_lora_rank == 64
    assert read.allowed_media_domains == ["a.example", "b.example"]
    assert read.middleware == ["fourfold.serving.vllm.gate.VLLMGate"] and read.disable_fastapi_docs
    assert read.limit_mm_per_prompt == {"image": 16} and read.mm_processor_cache_gb == 0
    assert read.override_generation_config == {"temperature": 0}
    assert read.chat_template_content_format == "openai" and read.max_num_queued_reqs == 256
    gate = json.loads(made.environment[SETTINGS_VARIABLE])
    assert [(key["admin"], key["per_minute"]) for key in gate["keys"]] == [(False, 30), (True, 30)]
    assert gate["local_names_only"] is False
    set_here = {"VLLM_SERVER_DEV_MODE": "0", "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0", "HF_HUB_OFFLINE": "1"}
    set_here |= {"VLLM_MAX_IMAGE_PIXELS": "52000000", "VLLM_MAX_N_SEQUENCES": "8", "DO_NOT_TRACK": "1"}
    assert set_here.items() <= made.environment.items()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--max-running", "4"], "--max-num-seqs"),
        (["--adapter", "/nonexistent"], "is no LoRA adapter"),
        (["--quantization", "8bit"], "8 bit only what was saved so"),
        (["--memory"], "--memory is the local engine's"),
    ],
)
def test_options_that_are_refused(
    words: list[str],
    message: str,
    checkpoint: Path,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["fourfold", "serve", "--engine", "vllm", "--model", str(checkpoint), *words])
    with pytest.raises(SystemExit, match="2"):
        main()
    out = capsys.readouterr()
    assert message in out.err and out.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "8bit"}, "8 bit only what was saved so"),
        ({"quantization": "3bit"}, "no quantization called '3bit'"),
        ({"image_hosts": ["a.example:8443"]}, "allow the image host as a.example"),
        ({"host": "no-such-host.invalid"}, "cannot listen on no-such-host.invalid"),
    ],
    ids=["8bit", "unknown quantization", "port of an image host", "unknown host"],
)
def test_user_errors(checkpoint: Path, port: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        launch_vllm(checkpoint, **{"port": port} | options)


def test_busy_port_is_one_line_on_the_command_line(checkpoint: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = ["serve", "--engine", "vllm", "--model", str(checkpoint), "--port", str(port)]
        run = subprocess.run(
            [sys.executable, "-m", "fourfold.cli", *command], capture_output=True, text=True, timeout=60, check=False
        )
    assert run.returncode == 2, run.stderr
    assert str(port) in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr
