"""Sweeps of many empty trials, for `bench/sweep.py`: time and memory by the number of trials."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import Report

from mdssl.config.trial import TrialConfig
from mdssl.storage.trial_dir import trial_dir_in

MANY = (200, 600, 2000)


def grow(folder: Path, counts: Sequence[int]) -> None:
    """Print a table of time and memory of sweeps with ``counts`` empty trials."""
    rows = []
    for count in counts:
        own = folder / f"growth-{count}"
        own.mkdir()
        command = [sys.executable, __file__, str(own), str(count)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        found = json.loads(output.splitlines()[-1])
        rows.append([f"{count:,}", *(f"{found[name]:.3g}" for name in list(found))])
    header = [
        "trials",
        "planning, s",
        "second hundred, ms each",
        "last hundred, ms each",
        "driver, MiB each",
        "table, s",
    ]
    Report("s", peer="").table("Sweeps of trials that do nothing, inline, two at a time", header, rows)


def run_many(folder: Path, count: int) -> dict[str, float]:
    """Run a sweep of ``count`` empty trials in this process.

    Returns:
        ``planning`` and ``table``: seconds before Ray starts and after it ends. ``second`` and ``last``: milliseconds
        for each of the second and the last hundred trials; the first hundred wait for the evaluator and then end at
        once. ``memory``: growth of this process in MiB for each trial after the first hundred. The last ten do not
        count, because modules for the end of a sweep are imported then.
    """
    from mdssl.cli.parse import parse
    from mdssl.cli.sweeps.lambda_grid import LambdaGrid
    from mdssl.sweep import evaluations, launch, progress, trial

    prepare_tiny(folder)
    flags = ["--domains", "tiny-a", "--data", folder / "data", "--storage", folder / "results", "--track", "none"]
    flags += ["--executor", "inline", "--max-concurrent", 2, "--seeds", *range(count)]
    settings = parse(LambdaGrid, prog="growth.py", description="", argv=[str(flag) for flag in flags])
    memory: list[float] = []
    real_tell, real_run, moments = progress.SweepProgress.tell, launch._run, [time.perf_counter()]

    def tell(self: Any, trial_id: str, result: Any) -> None:
        real_tell(self, trial_id, result)
        if result.get("state") == "finished":
            memory.append(resident_mib())

    def run(*arguments: Any) -> None:
        moments.append(time.perf_counter())
        real_run(*arguments)
        moments.append(time.perf_counter())

    progress.SweepProgress.tell, launch._run = tell, run  # type: ignore[method-assign, assignment]
    trial.run_trial = trial_of_nothing
    evaluations.Evaluator = evaluator_of_nothing()  # type: ignore[misc]
    with contextlib.redirect_stdout(io.StringIO()):
        assert launch.run_sweep("growth", settings, ["random"]) == 0
    # Times of the rows, not of the results in this process: at the end Tune waits for its own processes for seconds.
    ends = sorted(file.stat().st_mtime for file in (folder / "results/leaderboard").iterdir())
    assert len(ends) == len(memory) == count, f"{len(ends)} of {count} trials ended"
    return {
        "planning": moments[1] - moments[0],
        "second": 10 * (ends[199] - ends[99]),
        "last": 10 * (ends[-1] - ends[-101]),
        "memory": (memory[-10] - memory[100]) / (count - 110),
        "table": time.perf_counter() - moments[2],
    }


def trial_of_nothing(tune_config: dict[str, Any], run: Any) -> None:
    """A trial that takes its claim and does not train."""
    from mdssl.sweep import trial

    trial._trained = lambda config, *arguments: {"status": "finished", "step": 0}  # type: ignore[assignment]
    trial.run_trial(tune_config, run)


def evaluator_of_nothing() -> Any:
    """Replaces `mdssl.sweep.evaluator.Evaluator`; writes a row without an evaluation."""
    import ray

    @ray.remote(num_cpus=0)
    class EvaluatorOfNothing:
        def __init__(self, *arguments: Any):
            pass

        def score_trial(self, work: Any, run: Any, token: str) -> dict[str, str]:
            from mdssl.leaderboard.board import write_rows
            from mdssl.pretrain.trial_files import now
            from mdssl.storage.claim import check_held
            from mdssl.sweep.grid import evaluation_fingerprint
            from mdssl.trials.rows import _FROM_TRAINING, finished_row

            config = TrialConfig.from_dict(work["trial"])
            trial_dir, (probe,) = trial_dir_in(run.storage, config.trial_id), run.probe.each()
            score = {
                "eval_dataset": "tiny-a", "data_fingerprint": evaluation_fingerprint(run.data, "tiny-a"),
                "features": "encoder", "probe": probe.name, "probe_settings": probe.settings(), "top1": 50.0,
                "num_classes": 4, "num_train": 64, "num_test": 64, "eval_seconds": 0.0,
            }  # fmt: skip
            training = dict.fromkeys(_FROM_TRAINING, 0) | {"started_at": now(), "device": "cpu", "torch_version": ""}
            check_held(trial_dir, token)
            row = finished_row(config, training, score, context=run.context, trial_dir=trial_dir)
            write_rows(run.storage, config.trial_id, [row])
            return {"state": "finished"}

    return EvaluatorOfNothing


def resident_mib() -> float:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 2**10


def prepare_tiny(folder: Path) -> None:
    """Prepare two tiny datasets in ``folder / "data"``."""
    from mdssl.data.prepare import prepare

    rng = np.random.default_rng(0)
    for name in ("tiny-a", "tiny-b"):
        images, labels = rng.integers(256, size=(64, 16, 16, 3), dtype=np.uint8), np.arange(64) % 4
        source = folder / f"{name}.npz"
        np.savez(source, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
        prepare(name, data=folder / "data", source=source, image_size=16, workers=1, progress=False)


if __name__ == "__main__":
    print(json.dumps(run_many(Path(sys.argv[1]), int(sys.argv[2]))))
