"""A synthetic leaderboard that can give each of the figures that need no representations."""

import numpy as np
import pandas as pd
from factories import UNTRAINED, failed, row

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
    """A λ grid of two seeds with a hole and a failed trial, growing mixtures, single domains, clusters, a floor."""
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
