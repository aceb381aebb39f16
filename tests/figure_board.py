"""Synthetic leaderboards for all figures that need no representations."""

from pathlib import Path

import numpy as np
import pandas as pd
from factories import UNTRAINED, failed, row, stopped

from mdssl.leaderboard.board import write_rows
from mdssl.leaderboard.columns import SCHEMA

DATASETS = ("cifar10", "svhn", "stl10")
MIXTURES = {2: "cifar10+svhn", 3: "cifar10+svhn+stl10", 4: "cifar10+svhn+stl10+dtd"}


def a_board(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([dict.fromkeys(SCHEMA.names) | one for one in rows])


def trial(trial_id: int, datasets=DATASETS, **settings) -> list[dict]:
    random = np.random.default_rng(trial_id)
    cost = {"train_seconds": float(random.uniform(100, 900)), "num_workers": 1, "gpu_hours": 0.0, "device": "cpu"}
    scores = {name: float(random.uniform(20, 80)) for name in datasets}
    same = {"trial_id": f"{trial_id:012x}"} | cost
    return [row(name, **same, top1=score, **settings) for name, score in scores.items()]


def board_of_all_kinds() -> pd.DataFrame:
    """A λ grid with two seeds and one failed trial, growing mixtures, single domains, clusters and a random encoder."""
    settings = [
        *({"lambda1": a, "lambda2": b, "seed": seed} for a in (1.0, 0.9) for b in (0.0, 0.1, 0.2) for seed in (0, 1)),
        *({"method": "simclr", "lambda1": 1.0, "lambda2": 0.0, "seed": seed} for seed in (0, 1)),
        *({"train_mixture": MIXTURES[n], "num_domains": n, "seed": seed} for n in (3, 4) for seed in (0, 1)),
        *(
            {"method": "simclr", "train_mixture": name, "num_domains": 1, "lambda1": 1.0, "lambda2": 0.0}
            for name in ("cifar10", "svhn")
        ),
        *({"method": name, "num_clusters": 2, "recluster_every": 10} for name in ("mdssl-clustered", "mdssl-robust")),
        UNTRAINED,
    ]
    settings = [one for one in settings if one != {"lambda1": 1.0, "lambda2": 0.1, "seed": 1}]
    rows = [one for number, own in enumerate(settings) for one in trial(number + 1, **own)]
    return a_board([*rows, failed(trial_id="f" * 12, lambda1=1.0, lambda2=0.1, seed=1)])


def grid_of(board: pd.DataFrame) -> pd.DataFrame:
    return board[(board["method"] == "mdssl") & (board["train_mixture"] == MIXTURES[2]) & board["top1"].notna()]


def at_one_lambda(board: pd.DataFrame) -> pd.DataFrame:
    return board[(board["method"] != "mdssl") | ((board["lambda1"] == 0.9) & (board["lambda2"] == 0.1))]


def a_search(storage: str | None = None, *, trials: int = 24, sweep: str = "search", **settings) -> pd.DataFrame:
    """A search over λ1, λ2, learning rate and stem: every third trial was stopped early, and the first failed.

    The validation score is 60 - 200 (λ1 - 0.9)² - 8 |log10(learning rate)|, and test scores are its opposite. λ2 and
    stem have no effect.

    Args:
        storage: the folder to which the metrics and rows of the trials are written, if any.
    """
    random = np.random.default_rng(0)
    rows = []
    for number in range(trials):
        own = {
            "trial_id": f"{number + 1:012x}",
            "sweep": sweep,
            "lambda1": round(random.uniform(0.8, 1), 2),
            "lambda2": round(random.uniform(0, 0.4), 2),
            "learning_rate": float(f"{10 ** random.uniform(-1, 1):.3g}"),
            "stem": str(random.choice(["cifar", "imagenet"])),
            "finished_at": f"2026-11-02T10:{number:02}:00.000+00:00",
            **{"gpu_hours": 0.0, "num_workers": 1, "device": "cpu", "train_seconds": 90.0, "step": 150},
            **settings,
        }
        val = 60 - 200 * (own["lambda1"] - 0.9) ** 2 - 8 * abs(np.log10(own["learning_rate"]))
        if number == 0:
            rows.append(failed(**own | {"train_seconds": 30.0, "step": None}))
            continue
        early = number % 3 == 2
        if early:
            own |= {"train_seconds": 30.0, "step": 50}
        for place, name in enumerate(DATASETS):
            offset = 10 * place - 10
            if early:
                rows.append(stopped(name, **own, val_linear_top1=val + offset - 15))
            else:
                rows.append(row(name, **own, top1=100 - val, val_top1=val + offset, val_linear_top1=val + offset - 5))
        if storage is not None:
            folder = Path(storage) / "trials" / own["trial_id"]
            folder.mkdir(parents=True)
            steps = [16, 50] if early else [16, 50, 100]
            scores = [val - 30, val - 15, val - 8][: len(steps)]
            reports = pd.DataFrame({"step": [8, *steps], "val_linear_top1": [None, *scores], "loss": 1.0})
            reports.to_parquet(folder / "metrics.parquet")
    if storage is not None:
        for trial_id in dict.fromkeys(one["trial_id"] for one in rows):
            write_rows(storage, str(trial_id), [one for one in rows if one["trial_id"] == trial_id])
    return a_board(rows)
