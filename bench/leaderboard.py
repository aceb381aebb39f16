"""A leaderboard of 10,000 trials × 6 datasets is read in 0.1 to 0.2 s from its compacted copy.

The leaderboard has ten mixtures × λ1, λ2, temperatures, seeds and methods; one trial in a hundred failed. mdssl writes
one file per trial into a temporary folder. Timed are a bare `pd.read_parquet` of the folder and of one file with the
same rows, our reader with the copy that `mdssl leaderboard --compact` makes, the printed table, and the whole command.
The single file is the peer of our reader, which also checks whether a file is newer than the copy. First all must give
the same values. The files of the trials stay authoritative, and the time without the copy is shown, too.

    python bench/leaderboard.py
"""

from __future__ import annotations

import io
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from harness import Report, arguments, duration, paired_ratio, take_turns
from rich.console import Console

from mdssl.config.probe import ProbeConfig
from mdssl.config.trial import TrialConfig
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard import compacted
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.tables.printing import print_leaderboard
from mdssl.trials.rows import failed_row, finished_row

DATASETS = ("cifar10", "svhn", "stl10", "cifar100", "dtd", "eurosat")
PEER = "pd.read_parquet, one file"
STARTED = "2026-11-02T10:00:00.250+00:00"
CONTEXT = {"sweep": "lambda_grid", "preset": "cifar", "git_commit": "0123456789" * 4, "ray_version": "2.40.0"}


def configs() -> Iterator[TrialConfig]:
    """Random encoders, then 20 methods × 10 seeds × 5 temperatures on each of ten pairs of domains."""
    grid = itertools.product((1.0, 0.95, 0.9, 0.8), (0.0, 0.05, 0.1, 0.2))
    methods = [{"method": "mdssl", "lambda1": lambda1, "lambda2": lambda2} for lambda1, lambda2 in grid]
    clustered = (("mdssl-clustered", 2), ("mdssl-clustered", 4), ("mdssl-robust", 4))
    methods += [{"method": name, "num_clusters": k, "lambda1": 0.9, "lambda2": 0.1} for name, k in clustered]
    methods.append({"method": "simclr"})
    for seed in range(10):
        yield TrialConfig(method="random", domains=(), arch="resnet18", seed=seed)
    mixtures = itertools.combinations(DATASETS[:5], 2)
    points = itertools.product(mixtures, range(10), (0.05, 0.1, 0.2, 0.3, 0.5), methods)
    for domains, seed, temperature, method in points:
        yield TrialConfig(
            domains=domains,
            seed=seed,
            temperature=temperature,
            arch="resnet18",
            data_fingerprint="".join(domains).ljust(64, "0"),
            **method,
        )


def rows_of(config: TrialConfig, storage: Location, rng: np.random.Generator) -> list[dict]:
    """Rows of the trial, one for each dataset."""
    cost = {
        "step": config.iterations,
        "train_seconds": rng.uniform(1000, 1100),
        "gpu_hours": 0.29,
        "num_workers": 1,
        "device": "a GPU",
        "views_seen": 10_000_000,
        "views_per_second": 9_500.0,
        "peak_memory_mb": 21_000.0,
        "encoder_mb": 44.7,
        "final_loss": rng.uniform(3, 5),
        "torch_version": "2.5.1",
        "started_at": STARTED,
    }
    probe, rows = ProbeConfig(), []
    for name in DATASETS:
        score = {
            "eval_dataset": name,
            "data_fingerprint": f"{name:0<16}-{name:0>16}",
            "features": "encoder",
            "probe": probe.name,
            "probe_settings": probe.settings(),
            "top1": rng.uniform(20, 90),
            "top5": rng.uniform(90, 99),
            "knn_top1": rng.uniform(20, 80),
            "num_classes": 10,
            "num_train": 50_000,
            "num_test": 10_000,
            "eval_seconds": rng.uniform(10, 20),
        }
        trial_dir = trial_dir_in(storage, config.trial_id)
        rows.append(finished_row(config, cost, score, context=CONTEXT, trial_dir=trial_dir))
    return rows


def write(storage: Location, trials: int) -> None:
    rng = np.random.default_rng(0)
    error = "ValueError: the loss is nan at step 3\nTraceback (most recent call last): …"
    # These files need not survive a power failure, and 10,000 calls of fsync take minutes.
    with mock.patch.object(os, "fsync"):
        for number, config in enumerate(itertools.islice(configs(), trials)):
            rows = rows_of(config, storage, rng)
            if number % 100 == 99:
                rows = [failed_row(config, error, context=CONTEXT, started_at=STARTED)]
            leaderboard.write_rows(storage, config.trial_id, rows)


def printed(storage: Location) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_leaderboard(storage, console=console)
    return console.file.getvalue()


def bare(storage: Location) -> pd.DataFrame:
    return pd.read_parquet(storage.path + "/leaderboard")


def with_copy(storage: Location, act: Callable[[Location], object]) -> Callable[[], object]:
    """A function that calls ``act`` with the compacted copy in place, then moves it aside for other contenders."""
    copy, aside = Path(storage.path, compacted.COPY), Path(storage.path, "aside")

    def acts() -> object:
        aside.rename(copy)
        try:
            return act(storage)
        finally:
            copy.rename(aside)

    return acts


def check_agreement(storage: Location) -> None:
    ours, copied = leaderboard.read(storage), with_copy(storage, leaderboard.read)()
    pd.testing.assert_frame_equal(copied, ours)
    peer = bare(storage).sort_values(["trial_id", "eval_dataset"]).reset_index(drop=True)
    ours = ours.sort_values(["trial_id", "eval_dataset"]).reset_index(drop=True)
    assert list(peer) == list(ours)
    for name in ours:
        theirs, own = peer[name].astype(object), ours[name].astype(object)
        assert (theirs.isna() == own.isna()).all(), f"{name}: nulls differ"
        assert (theirs.dropna() == own.dropna()).all(), f"{name}: values differ"
    assert with_copy(storage, printed)() == printed(storage)


def command(storage: Location) -> None:
    subprocess.run(
        [sys.executable, "-m", "mdssl", "leaderboard", "--storage", storage.path], check=True, stdout=subprocess.DEVNULL
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(rounds=3)
    parser.add_argument("--trials", type=int, default=10_000)
    args = parser.parse_args()
    report = Report("rows/s", peer="pd.read_parquet of one file")
    with tempfile.TemporaryDirectory() as folder:
        storage = Location.of(folder)
        started = time.perf_counter()
        write(storage, args.trials)
        report.note(f"{args.trials:,} files written in {duration(time.perf_counter() - started)}, without fsync")
        # A compacted copy does not include files of the last seconds.
        time.sleep(11)
        started = time.perf_counter()
        done = compacted.compact(storage)
        Path(done.file.path).rename(Path(folder, "aside"))
        report.note(f"compacted in {duration(time.perf_counter() - started)}: {done.rows:,} rows")
        assert done.trials == args.trials
        check_agreement(storage)
        one_file = Path(folder, "one-file.parquet")
        bare(storage).to_parquet(one_file)
        contenders = {
            "ours, compacted": with_copy(storage, leaderboard.read),
            PEER: lambda: pd.read_parquet(one_file),
            "pd.read_parquet, the folder": lambda: bare(storage),
            "printed, compacted": with_copy(storage, printed),
            "ours": lambda: leaderboard.read(storage),
            "printed": lambda: printed(storage),
            "mdssl leaderboard, compacted": with_copy(storage, command),
            "mdssl leaderboard": lambda: command(storage),
        }
        seconds = take_turns(contenders, rounds=args.rounds, device=args.device)
    report.timings(f"{args.trials:,} trials × {len(DATASETS)} datasets, a file each", seconds, work=done.rows)
    ours, peer = (statistics.median(seconds[name]) for name in ("ours, compacted", PEER))
    table = duration(statistics.median(seconds["printed, compacted"]))
    alone, slow = (duration(statistics.median(seconds[name])) for name in ("ours", "printed"))
    report.claim(
        f"{done.rows:,} rows of {args.trials:,} trials: read in {duration(ours)} and printed in {table} with a "
        f"compacted copy; without one in {alone} and {slow}",
        ours=done.rows / ours,
        peer=done.rows / peer,
        ratio=paired_ratio(seconds, PEER, "ours, compacted"),
    )


if __name__ == "__main__":
    main()
