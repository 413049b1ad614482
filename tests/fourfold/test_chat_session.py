"""A conversation at a terminal: the real command on a pseudo-terminal."""

import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

_ESCAPES = re.compile(r"\x1b\[(?!\?25l)[0-9;?]*[a-zA-Z]|\x1b[=>]")
_BEGUN = r"\x1b\[\?25l"
"""Hides the cursor: the display of an answer has begun."""


class Terminal:
    """`fourfold chat` on a terminal of its own."""

    def __init__(self, words: list[str], directory: Path, cache: Path) -> None:
        self.pid, self._end = pty.fork()
        if self.pid == 0:  # the child
            os.chdir(directory)
            os.environ.update(FOURFOLD_CACHE=str(cache), FOURFOLD_OFFLINE="1", TERM="xterm", COLUMNS="200")
            os.execv(sys.executable, [sys.executable, "-m", "fourfold.cli", "chat", *words])
        self._seen = ""

    def send(self, text: str) -> None:
        os.write(self._end, text.encode())

    def read_until(self, pattern: str, seconds: float = 60) -> str:
        """What appeared until the pattern did, without colours; the rest stays for the next call."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self._seen)):
            ready, _, _ = select.select([self._end], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"waited for {pattern!r}, saw {self._seen!r}")
            try:
                data = os.read(self._end, 65536)
            except OSError:  # the other end is closed
                data = b""
            if not data:
                raise AssertionError(f"ended before {pattern!r}, saw {self._seen!r}")
            self._seen = _ESCAPES.sub("", self._seen + data.decode(errors="replace"))
        before, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return before

    def interrupt(self) -> str:
        """Press Ctrl-C until it is heard, as readline misses what comes just before it begins to wait; "stopped" where
        it stopped an answer, "leaves" at the prompt."""
        for _ in range(5):
            self.send("\x03")
            try:
                return re.findall("stopped|leaves", self.read_until(r"(stopped|leaves)[^\n]*\n> $", 5))[-1]
            except TimeoutError:
                continue
        raise AssertionError("the interrupt was not heard")

    def wait(self) -> int:
        """Exit code."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if select.select([self._end], [], [], 0.05)[0]:
                try:
                    os.read(self._end, 65536)
                except OSError:
                    break
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self._end)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for number in range(2):
        Image.effect_noise((40 + number, 30), 90).convert("RGB").save(tmp_path / f"{number}.png")
    return tmp_path


def test_a_conversation_may_begin_with_a_question(tiny_checkpoint: Path, files: Path) -> None:
    words = ["0.png", "what is it?", "--interactive", "--model", str(tiny_checkpoint), "--max-tokens", "8"]
    terminal = Terminal(words, files, files / "cache")
    try:
        assert "> what is it?" in terminal.read_until(r"\n> $")
        terminal.send("and what else?\r")
        terminal.read_until(r"\n> $")
        terminal.send("/quit\r")
        assert terminal.wait() == 0
    finally:
        terminal.kill()


def test_a_conversation_with_every_command(tiny_checkpoint: Path, files: Path) -> None:
    words = ["0.png", "--model", str(tiny_checkpoint), "--max-tokens", "8", "--draw", "boxes.png"]
    terminal = Terminal(words, files, files / "cache")
    try:
        terminal.read_until(r"/help lists what you can do")
        terminal.read_until(r"> $")
        for sent, expected in [
            ("/help", r"/image FILE"),
            ("what is it?", r""),
            ("and what else?", r""),
            ("/image nowhere.png", r"nowhere\.png does not exist"),
            ("/image", r"/image needs the name of a file"),
            ("/image 1.png", r"41 x 30 pixels"),
            ("/task sing", r"no task is called 'sing'"),
            ("/task caption", r""),
            ("", r""),
            ("/task refer", r""),
            ("", r""),
            ("/task", r""),
            ("/sing", r"no command is called /sing"),
            ("/reset", r""),
            ("seven " * 600, r"the model reads at most 1024"),
            ("hello again", r""),
        ]:
            terminal.send(sent + "\r")
            shown = terminal.read_until(r"\n> $")
            assert re.search(expected, shown), (sent, shown)
            assert "Traceback" not in shown
        terminal.send("/quit\r")
        assert terminal.wait() == 0
    finally:
        terminal.kill()


def test_an_interrupt_stops_the_answer_and_the_end_of_input_leaves(tiny_checkpoint: Path, files: Path) -> None:
    terminal = Terminal(["--model", str(tiny_checkpoint), "--max-tokens", "1000"], files, files / "cache")
    try:
        terminal.read_until(r"> $")
        for _ in range(5):  # on a busy machine the whole answer may be there before the interrupt
            terminal.send("hello\r")
            terminal.read_until(_BEGUN)
            if terminal.interrupt() == "stopped":
                break
            terminal.send("/reset\r")  # a thousand tokens leave no room for another question
            terminal.read_until(r"/reset\s*\n> $")
        else:
            raise AssertionError("five answers could not be stopped")
        terminal.send("half a question")
        terminal.read_until(r"half a question$")
        assert terminal.interrupt() == "leaves"
        terminal.send("\x04")
        assert terminal.wait() == 0
    finally:
        terminal.kill()
