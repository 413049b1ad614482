"""The launcher, up to the point where it becomes vLLM."""

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prompts.errors import UserError
from serving.keys import Key, KeyRing
from serving.launch import launch_vllm
from serving.vllm_plugin import QUANTIZATION_4BIT
from tests.serving.vllm.conftest import ADMIN_KEY, USER_KEY

pytestmark = pytest.mark.vllm


class Executed(Exception):
    """In place of becoming another program."""

    def __init__(self, program: str, command: list[str], environment: dict[str, str]) -> None:
        super().__init__(program)
        self.command, self.environment = command, environment


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


def test_directory_without_a_checkpoint(tmp_path: Path, port: int) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        launch_vllm(tmp_path, port=port)


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
