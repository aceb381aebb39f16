"""A log of the steps that a training loop trains. It is separate from checkpoints, which hide steps trained twice.

Each process appends to one file, a line per event:

    begin TRIAL PID STEP    training begins after this step, that of the loaded checkpoint
    train TRIAL PID STEP    this step is trained
    saved TRIAL PID STEP    a checkpoint of this step is in the storage
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

VARIABLE = "MDSSL_WORK_LOG"


class Event(NamedTuple):
    what: str
    trial: str
    process: str
    step: int


def watch(loop: ModuleType) -> None:
    """Make ``mdssl.pretrain.loop`` log its steps and checkpoints in the first worker."""
    two_views, load_latest, save = loop.two_views, loop.checkpoint.load_latest, loop.checkpoint.save

    def log(what: str, trial: str, step: int) -> None:
        if not loop.dist.is_initialized() or loop.dist.get_rank() == 0:
            with open(os.environ[VARIABLE], "a") as file:
                file.write(f"{what} {trial} {os.getpid()} {step}\n")

    def logged_load(folder, *arguments):
        state = load_latest(folder, *arguments)
        log("begin", folder.parent.name, state.step if state else 0)
        return state

    def logged_views(config, mixture, groups, step, *arguments, **named):
        log("train", config.trial_id, step + 1)
        return two_views(config, mixture, groups, step, *arguments, **named)

    def logged_save(folder, snapshot, state):
        save(folder, snapshot, state)
        log("saved", folder.parent.name, state.step)

    loop.two_views, loop.checkpoint.load_latest, loop.checkpoint.save = logged_views, logged_load, logged_save


def check_work(log: Path, iterations: int) -> dict[str, int]:
    """Assert that no step of a checkpoint was trained again; return the number of steps trained again, by trial.

    A process that is being replaced may still train a few steps in parallel with its successor.
    """
    saved: dict[str, int] = defaultdict(int)
    at: dict[tuple[str, str], int] = {}
    trained: dict[str, list[int]] = defaultdict(list)
    for line in log.read_text().splitlines():
        what, trial, process, step = line.split(" ")
        event = Event(what, trial, process, int(step))
        key = (trial, process)
        if what == "begin":
            assert event.step >= saved[trial], f"trial {trial} begins after step {step}, {saved[trial]} is saved"
            at[key] = event.step
        elif what == "train":
            assert event.step == at[key] + 1, f"trial {trial} trains step {step} after step {at[key]}"
            at[key] = event.step
            trained[trial].append(event.step)
        else:
            # A thread writes the checkpoint while training goes on.
            assert event.step <= at[key], f"trial {trial} saves step {step} after step {at[key]}"
            saved[trial] = max(saved[trial], event.step)
    for trial, steps in trained.items():
        assert set(steps) == set(range(1, iterations + 1)), f"trial {trial}: every step"
    return {trial: len(steps) - iterations for trial, steps in trained.items()}
