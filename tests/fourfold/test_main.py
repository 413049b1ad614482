"""What every command does with words that it cannot understand, and when nobody listens any more."""

import os
import subprocess
import sys

import pytest

from fourfold.cli.main import main


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["fourfold", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chat", "a.jpg", "--max-tokens", "abc"], "'--max-tokens': it has to be a valid integer"),
        (["chat", "a.jpg", "--temperature", "warm"], "'--temperature': it has to be a valid number"),
        (["chat", "--device", "abacus"], "'--device': 'abacus' is not one of 'auto', 'cpu'"),
        (["chat", "--frob"], "no such option: --frob"),
        (["chat", "--task"], "--task' requires an argument"),
        (["serve", "--port", "99999999"], "'--port': it has to be less than or equal to 65535"),
        (["tools", "zoom"], "missing argument 'PICTURE'"),
        (["frob"], "no such command 'frob'"),
        (["refine", "frob"], "no such command 'frob'"),
    ],
)
def test_words_that_cannot_be_meant_are_one_sentence(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words, monkeypatch) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fourfold: ") and err.count("\n") == 1
    assert message in err


def test_help_is_no_error_and_a_group_alone_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--help"], monkeypatch) == 0
    assert run(["tools"], monkeypatch) == 2
    out, err = capsys.readouterr()
    assert "read-text" in out + err and "fourfold: " not in err


def test_a_reader_that_leaves_is_no_traceback() -> None:
    command = [sys.executable, "-m", "fourfold.cli", "readouts", "show"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""
