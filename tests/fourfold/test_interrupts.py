"""Where Ctrl-C is heard."""

import signal

import pytest

from fourfold.cli.interrupts import Interrupts


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_is_heard_where_something_is_waited_for() -> None:
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.heard():
        press()


def test_elsewhere_it_is_kept_for_the_next_wait_and_then_forgotten() -> None:
    with Interrupts() as interrupts:
        press()
        press()
        with pytest.raises(KeyboardInterrupt), interrupts.heard():
            raise AssertionError("nothing is waited for any more")
        with interrupts.heard():
            pass


def test_what_cleans_up_behind_an_interrupt_is_not_interrupted() -> None:
    cleaned = False
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.heard():
        try:
            press()
        finally:
            press()
            cleaned = True
    assert cleaned


def test_behind_a_conversation_it_ends_the_command() -> None:
    with Interrupts():
        pass
    with pytest.raises(KeyboardInterrupt):
        press()
