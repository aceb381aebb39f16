"""A nested trial that does nothing takes two thirds of the time in a sweep that it takes with Ray's defaults.

The overhead of Ray is measured with empty trials: each calls `mdssl.pretrain.loop.train` on a finished trial, which
returns at once, so the time is that of processes, imports and waits. Four variants run one trial at a time, each in its
own Ray: the two executors of a sweep, and as peers the code of Ray's guides, which is a TorchTrainer in a Tune
function, and a Tune function that calls ``train`` itself. Only trials after the first are compared, because a sweep has
many. Then the command of a sweep with 100 finished trials is timed: it must take less than 30 s.

Before these, sweeps of 200, 600 and 2,000 inline trials run that take their claims and write their rows, but neither
train nor evaluate. Planning must take less than 10 s, and the table less than 3 s; the last hundred trials must not
take longer than in a smaller sweep. The driver grows with each trial, because Tune keeps a record of all trials.

These times are of 2 CPU cores, Ray 2.60 and 2 trials after the first. Other load slows both down, as the second row of
a contender shows.

    python bench/sweep.py
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from growth import MANY, grow, prepare_tiny
from harness import AGAIN, Report, arguments, timed
from rich.console import Console

from mdssl.config.probe import ProbeConfig
from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.pretrain.loop import train
from mdssl.pretrain.trial_files import read_training
from mdssl.storage.trial_dir import trial_dir_in

NESTED, INLINE = "nested", "inline"
BARE_NESTED, BARE = "TorchTrainer in a Tune function", "Tune function"
NOTHING = TrialConfig(method="random", arch="resnet18")
SCRIPT = Path(__file__).parents[1] / "sweeps" / "lambda_grid.py"
LAMBDA1, LAMBDA2, SEEDS = (1, 0.95, 0.9, 0.8, 0.7, 0.6), (0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3), (0, 1)
TRIALS = 100
"""48 pairs of λ, SimCLR on the union and a random encoder for each of two seeds."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.set_defaults(rounds=2)
    parser.add_argument("--only-growth", action="store_true", help="only the sweeps of many trials")
    parser.add_argument("--many", type=int, nargs="+", default=MANY, help="how many trials they have")
    args = parser.parse_args()
    if args.contender:
        print(json.dumps(run_trials(args.contender, Path(args.folder), 1 + args.rounds, args.device)))
        return
    with tempfile.TemporaryDirectory(prefix="mdssl-bench-") as folder:
        grow(Path(folder), args.many)
        if not args.only_growth:
            compare(Path(folder), args.rounds, args.device)


def compare(folder: Path, rounds: int, device: str) -> None:
    report = Report("s", peer=f"{BARE_NESTED}, Ray's defaults")
    train(NOTHING, data=folder, trial_dir=trial_dir_in(folder, NOTHING.trial_id), device="cpu")
    found: dict[str, dict[str, Any]] = {}
    for name in (NESTED, INLINE, BARE_NESTED, BARE, NESTED + AGAIN):
        # One process for each, because Ray reads its settings on start.
        command = [sys.executable, __file__, "--contender", name.removesuffix(AGAIN), "--folder", str(folder)]
        command += ["--rounds", str(rounds), "--device", device]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300).stdout
        found[name] = json.loads(output.splitlines()[-1])
        assert found[name]["statuses"] == ["finished"] * (1 + rounds), f"{name} did other trials: {found[name]}"
    rows = []
    for name, times in found.items():
        first, *further = times["trials"]
        medians = [f"{value:.2f}" for value in (times["init"], first, statistics.median(further))]
        rows.append([name, *medians, spread(further)])
    title = f"Seconds of Ray with trials that do nothing, {rounds} after the first ({device}, {torch.__version__})"
    report.table(title, ["", "ray.init", "first trial", "each further trial", "from … to"], rows)

    command = make_finished_sweep(folder)
    seconds = [timed(lambda: check_finished(command)) for _ in range(3)]
    row = ["`python sweeps/lambda_grid.py`", f"{statistics.median(seconds):.2f}", spread(seconds)]
    report.table(f"Seconds of a sweep of which all {TRIALS} trials are finished", ["", "median", "from … to"], [row])
    parts = ", ".join(f"{what} {value:.2f} s" for what, value in found[NESTED + AGAIN]["parts"].items())
    report.note(f"What is left of a nested trial, in order: {parts}.")
    ours = statistics.median(found[NESTED]["trials"][1:] + found[NESTED + AGAIN]["trials"][1:])
    peer = statistics.median(found[BARE_NESTED]["trials"][1:])
    claim = "seconds that a nested trial takes which does nothing, after the first"
    report.claim(claim, ours=round(ours, 2), peer=round(peer, 2), ratio=round(peer / ours, 2))


def spread(seconds: list[float]) -> str:
    return f"{min(seconds):.2f} to {max(seconds):.2f}"


def run_trials(contender: str, folder: Path, count: int, device: str) -> dict[str, Any]:
    """Run ``count`` empty trials, one at a time.

    Returns:
        Seconds of ray.init (``init``), of each trial with Tune's work before it (``trials``), and of the ``parts`` of a
        nested trial. ``statuses``: the status that each trial read.
    """
    import ray
    from ray import tune

    from mdssl.sweep.launch import trial_resources
    from mdssl.sweep.ray_session import ray_session
    from mdssl.sweep.settings import SweepSettings
    from mdssl.sweep.trial import TrialRun

    class Ends(tune.Callback):
        ends: list[float] = []  # noqa: RUF012 (Tune copies the callback)

        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            self.ends.append(time.time())

    gpus = float(device == "cuda")
    started = time.time()
    session = ExitStack()
    if contender in (NESTED, INLINE):
        session.enter_context(ray_session(SweepSettings(domains=("none",)), Console()))
        run = TrialRun(
            storage=str(folder), data=str(folder), probe=ProbeConfig(), settings=RunSettings(),
            executor="inline" if contender == INLINE else "torchtrainer", workers=1, cpus_per_worker=1,
            gpus_per_worker=gpus, context={},
        )  # fmt: skip
        trainable = tune.with_resources(partial(our_trial, run=run), trial_resources(run))
        tune_config = tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True)
    else:
        ray.init(log_to_driver=False, logging_level="ERROR")
        function = bare_nested_trial if contender == BARE_NESTED else bare_trial
        trainable = partial(function, folder=str(folder), use_gpu=bool(gpus))
        tune_config = tune.TuneConfig(max_concurrent_trials=1)
    began = time.time()
    with session, tempfile.TemporaryDirectory(prefix="mdssl-tune-") as records:
        results = tune.Tuner(
            trainable,
            param_space={"number": tune.grid_search(list(range(count)))},
            tune_config=tune_config,
            run_config=tune.RunConfig(storage_path=records, verbose=0, callbacks=[Ends()]),
        ).fit()
        ends = [began, *Ends.ends]
        measured = {
            "init": began - started,
            "trials": [end - begin for begin, end in pairwise(ends)],
            "statuses": [result.metrics.get("status") for result in results],
            "parts": parts_of_nested_trials(Ends.ends) if contender == NESTED else {},
        }
    ray.shutdown()
    return measured


def our_trial(tune_config: dict[str, Any], run: Any) -> None:
    """Train as `mdssl.sweep.trial.run_trial` does, for a trial that is already trained."""
    from ray import tune

    from mdssl.storage.claim import Claim
    from mdssl.sweep.trial import train_in_workers, train_inline

    trial_dir = trial_dir_in(run.storage, NOTHING.trial_id)
    with Claim(trial_dir) as claim:
        claim.wait()
        (train_inline if run.executor == "inline" else train_in_workers)(NOTHING, trial_dir, run, claim.token)
    tune.report({"status": read_training(trial_dir)["status"]})


def bare_nested_trial(tune_config: dict[str, Any], folder: str, use_gpu: bool) -> None:
    """A trial as in Ray's guide to Tune with Train, with the callback that forwards reports of workers."""
    import ray.train.torch
    from ray import tune
    from ray.tune.integration.ray_train import TuneReportCallback

    ray.train.torch.TorchTrainer(
        lambda config: do_nothing(config["folder"]),
        train_loop_config={"folder": folder},
        scaling_config=ray.train.ScalingConfig(num_workers=1, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(
            name=f"bare-{tune_config['number']}", storage_path=folder, callbacks=[TuneReportCallback()]
        ),
    ).fit()
    tune.report({"status": read_training(trial_dir_in(folder, NOTHING.trial_id))["status"]})


def bare_trial(tune_config: dict[str, Any], folder: str, use_gpu: bool) -> None:
    from ray import tune

    tune.report({"status": do_nothing(folder)})


def do_nothing(folder: str) -> str:
    return train(NOTHING, data=folder, trial_dir=f"{folder}/trials/{NOTHING.trial_id}", device="cpu")["status"]


def parts_of_nested_trials(ends: list[float]) -> dict[str, float]:
    """Seconds of the consecutive parts of a nested trial, medians over the trials after the first.

    Args:
        ends: Unix times at which Tune completed each trial.
    """
    from ray.util.state import list_tasks

    time.sleep(2)  # processes report their tasks once a second
    tasks: dict[str, list] = {}
    for task in sorted(list_tasks(detail=True, limit=10_000), key=lambda task: task.creation_time_ms):
        tasks.setdefault(task.name, []).append(task)
    found: dict[str, list[float]] = {}
    for number in range(1, len(ends)):
        controller, worker, context, function, stop = (
            tasks[name][number]
            for name in (
                "TrainController.__init__",
                "RayTrainWorker.__init__",
                "RayTrainWorker.init_train_context",
                "RayTrainWorker.run_train_fn",
                "PlacementGroupCleaner.stop",
            )
        )
        moments = {
            "": ends[number - 1] * 1000,
            "Tune's next trial": controller.creation_time_ms,
            "a process for Train's controller": controller.start_time_ms,
            "its imports and first calls": worker.creation_time_ms,
            "a process for the worker, while two more start": worker.start_time_ms,
            "its imports of Ray": context.creation_time_ms,
            "its context": function.creation_time_ms,
            "its imports of torch and mdssl": function.end_time_ms,
            "Train's next look at it": stop.creation_time_ms,
            "Train's guard of the placement group, which looks up once a second to stop": stop.end_time_ms,
            "back to Tune": ends[number] * 1000,
        }
        for (_, begin), (name, end) in pairwise(moments.items()):
            found.setdefault(name, []).append((end - begin) / 1000)
    return {name: statistics.median(values) for name, values in found.items()}


def make_finished_sweep(folder: Path) -> list[str]:
    """Write rows and files of 100 finished trials, by the functions that trials use.

    Encoders are minimal stand-ins, because a finished sweep opens none.

    Returns:
        The command of that sweep.
    """
    from mdssl.cli.parse import parse
    from mdssl.cli.sweeps.lambda_grid import LambdaGrid
    from mdssl.leaderboard.board import write_rows
    from mdssl.pretrain.checkpoint import LoopState
    from mdssl.pretrain.trial_files import now, write_config, write_finished
    from mdssl.sweep.grid import evaluation_fingerprint, trials
    from mdssl.trials.rows import finished_row, git_commit

    rng = np.random.default_rng(0)
    prepare_tiny(folder)
    flags = ["--domains", "tiny-a", "tiny-b", "--data", folder / "data", "--storage", folder / "results"]
    flags += ["--lambda1", *LAMBDA1, "--lambda2", *LAMBDA2, "--seeds", *SEEDS]
    flags = [str(flag) for flag in flags]
    settings = parse(LambdaGrid, prog=SCRIPT.name, description="", argv=flags)
    methods = settings.expand("random", "simclr", "mdssl")
    probe, context = settings.probe_config, {"sweep": "lambda_grid", "preset": "quick", "git_commit": git_commit()}
    configs = trials(settings, methods)
    assert len(configs) == TRIALS, len(configs)
    for config in configs:
        trial_dir = trial_dir_in(settings.storage, config.trial_id)
        write_config(trial_dir, config)
        state = LoopState(started_at=now())
        training = write_finished(trial_dir, config, torch.nn.Linear(1, 1), state, device="cpu", workers=1)
        rows = []
        for name in settings.evaluate:
            score = {
                "eval_dataset": name, "data_fingerprint": evaluation_fingerprint(settings.data, name),
                "features": "encoder", "probe": probe.name, "probe_settings": probe.settings(),
                "top1": float(rng.uniform(20, 90)), "num_classes": 4, "num_train": 64, "num_test": 64,
            }  # fmt: skip
            rows.append(finished_row(config, training, score, context=context, trial_dir=trial_dir))
        write_rows(settings.storage, config.trial_id, rows)
    return [sys.executable, str(SCRIPT), *flags]


def check_finished(command: list[str]) -> None:
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300).stdout
    found = re.search(r"(\d+) trials on .*: (\d+) finished$", output, re.MULTILINE)
    assert found and found.groups() == (str(TRIALS), str(TRIALS)), output


if __name__ == "__main__":
    main()
