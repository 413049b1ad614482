import pytest

from fourfold.assistant.progress import Progress, print_progress, progress_bar, read_progress


@pytest.mark.parametrize(
    "event", [Progress("learning", 3, 40, 1.25), Progress("looking at the images"), Progress("après — 2", 1)]
)
def test_a_line_is_read_as_the_event_that_was_written(event, capsys):
    print_progress(event)
    out, err = capsys.readouterr()
    assert not out and err.endswith("\n") and read_progress(err) == event


@pytest.mark.parametrize(
    "line",
    ["", "fourfold: there is nothing to learn", "3", "[]", '{"progress": 3}', '{"progress": {"x": 1}}', '{"a": 1}'],
)
def test_what_is_for_people_is_no_event(line):
    assert read_progress(line) is None


def test_the_bar_says_stage_loss_and_count_on_stderr(capsys):
    with progress_bar() as tell:
        tell(Progress("looking"))
        tell(Progress("learning", 3, 40, 1.25))
    out, err = capsys.readouterr()
    assert not out and "looking" in err and "learning, loss 1.25" in err and "3/40" in err


def test_nothing_told_draws_nothing(capsys):
    with progress_bar():
        pass
    assert capsys.readouterr().err == ""
