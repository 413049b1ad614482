"""Asking a task's questions: only those that the log lacks, with a progress bar, so that a stopped run goes on."""

import os
from collections.abc import Mapping

from fourfold.assistant.progress import OnProgress, Progress, progress_bar
from fourfold.eval.log import EvalLog
from fourfold.eval.model import AllRefused, Model, NoAnswer, Output, world_size
from fourfold.eval.task import Sample, Task
from fourfold.prompts.errors import UserError


def main_process() -> bool:
    """Whether this is the process of `accelerate launch` that writes results down; true outside of it."""
    return int(os.environ.get("RANK", "0")) == 0


def run(task: Task, model: Model, log: EvalLog, *, progress: OnProgress | None = None) -> Mapping[str, Output]:
    """Ask what has no answer in the log yet; answers go there as they come.

    The processes of `accelerate launch` share the work, and each gets all answers.

    Args:
        task: what is asked.
        model: who is asked.
        log: of this model and of all else that the answers depend on.
        progress: is told how far it is; None for a bar.

    Returns:
        An output for each sample's id.

    Raises:
        UserError: nobody answers (any more); what was answered is kept.
    """
    samples = {sample.id: sample for sample in task.samples}
    waiting = [sample for key, sample in samples.items() if key not in log.done]
    processes = world_size()
    if processes > 1:
        _meet()  # before anybody writes, so that all agree about what is waiting
        waiting = waiting[int(os.environ["RANK"]) :: processes]
    if waiting:
        with progress_bar(progress) as tell:
            _ask(task, waiting, model, log, tell)
    if processes > 1:
        _meet()
        log.refresh()
    return {key: log.done[key] for key in samples if key in log.done}


def _ask(task: Task, waiting: list[Sample], model: Model, log: EvalLog, tell: OnProgress) -> None:
    done = len({sample.id for sample in task.samples} & log.done.keys())
    total = done + len(waiting)
    tell(Progress(task.name, done, total))

    def keep(sample: Sample, output: Output) -> None:
        nonlocal done
        done += 1
        log.add(sample.id, output)
        tell(Progress(task.name, done, total))

    try:
        model.generate(waiting, max_tokens=task.max_tokens, template=task.template, on_output=keep)
    except AllRefused as error:
        # Where others were answered before, these are the ones that cannot be; to ask more of them teaches nothing.
        if not any(log.done[sample.id].error is None for sample in task.samples if sample.id in log.done):
            raise UserError(f"{error}; nothing more was asked") from None
        for sample in waiting:
            if sample.id not in log.done:
                keep(sample, Output(error=str(error)))
    except NoAnswer as error:
        raise UserError(
            f"{error}; {len(log.done)} answers are kept in {log.path}, run the same command again to go on"
        ) from None


def _meet() -> None:
    """Wait for the other processes."""
    from accelerate import PartialState

    PartialState().wait_for_everyone()
