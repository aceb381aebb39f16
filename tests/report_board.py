"""Leaderboards for tests of the report, and stand-ins for the figures, which are slow to draw."""

import io
import json
import types

import numpy as np
import pandas as pd
from factories import UNTRAINED, failed, row

from mdssl.config.trial import TrialConfig
from mdssl.evaluate import confusion
from mdssl.evaluate.confusion import counts_of
from mdssl.leaderboard.board import write_rows
from mdssl.storage.location import Location

DATASETS = ("cifar10", "svhn", "stl10", "cifar100")
EVALUATION = {
    "data_fingerprint": "cd98cdda494f7088",
    "knn_neighbours": 20,
    "probe": "lbfgs",
    "probe_batch": 1024,
    "probe_epochs": 100,
    "probe_l2": 0.001,
    "probe_learning_rate": 0.1,
}
HOSTILE = 'the loss is nan<script>alert("x")</script>\x1b[2J\u202egnp.exe\n' + 'File "<b>", line 1\n' * 40
SMALL = {"arch": "resnet18", "batch_per_domain": 64, "iterations": 80, "lr_warmup_iterations": 10, "precision": "fp32"}


def config(**changes) -> TrialConfig:
    return TrialConfig.from_dict(
        {"method": "mdssl", "domains": ["cifar10", "svhn"], "data_fingerprint": "1ff8bcaf654fc287", **SMALL, **changes}
    )


def rows_of(trial: TrialConfig, scores: dict[str, float], **changes) -> list[dict]:
    """Rows of the finished ``trial`` as a sweep writes them, one for each of ``scores``."""
    produced_by = {"evaluation": EVALUATION, **trial.versions, "trial": trial.to_dict()}
    own = {
        "trial_id": trial.trial_id,
        "method": trial.method,
        "train_mixture": trial.train_mixture,
        "num_domains": len(trial.domains),
        "lambda1": trial.lambda1,
        "lambda2": trial.lambda2,
        "stem": trial.stem,
        "batch_per_domain": trial.batch_per_domain,
        "iterations": trial.iterations,
        "seed": trial.seed,
        "config_json": json.dumps(produced_by, sort_keys=True),
        "data_fingerprint": trial.data_fingerprint,
        "train_seconds": 70.0 + trial.seed,
        "gpu_hours": 0.0,
        "device": "cpu",
        "knn_top1": 40.0,
        "finished_at": "2026-11-02T11:00:00.000+00:00",
    }
    own |= UNTRAINED if trial.method == "random" else {}
    return [row(name, top1=top1, **own | changes) for name, top1 in scores.items()]


def write_trial(storage: str, trial: TrialConfig, scores: dict[str, float], *, curves: bool = True, **changes) -> str:
    """Write the rows and metrics of a finished trial, and return its id."""
    write_rows(storage, trial.trial_id, rows_of(trial, scores, **changes))
    if curves:
        sink = io.BytesIO()
        pd.DataFrame({"step": [10, 20], "loss": [5.0, 4.0]}).to_parquet(sink)
        (Location.of(storage) / "trials" / trial.trial_id / "metrics.parquet").write_bytes(sink.getvalue())
    return trial.trial_id


def write_confusion(storage: str, trial_id: str, matrix: np.ndarray, names: list[str], *, seeds: int = 1) -> None:
    """Write a confusion matrix of a trial."""
    own = {"dataset": "svhn", "features": "encoder", "probe": "lbfgs", "fingerprint": "f", "seeds": seeds}
    confusion.add(Location.of(storage) / "trials" / trial_id, [{**own, "classes": names, "counts": counts_of(matrix)}])


def write_failed(storage: str, trial: TrialConfig, error: str = HOSTILE) -> str:
    own = rows_of(trial, {"svhn": 0.0})[0]
    kept = {name: own[name] for name in ("trial_id", "method", "lambda1", "lambda2", "seed", "config_json")}
    write_rows(storage, trial.trial_id, [failed(error, **kept)])
    return trial.trial_id


def write_board(storage: str, seeds: int = 1, datasets: tuple[str, ...] = DATASETS) -> list[str]:
    """Write a grid of 9 pairs of λ, SimCLR and a random encoder for each seed, and one failed trial; return the ids."""
    rng = np.random.default_rng(0)
    trials = []
    for seed in range(seeds):
        grid = [{"lambda1": lambda1, "lambda2": lambda2} for lambda1 in (1.0, 0.95, 0.9) for lambda2 in (0, 0.1, 0.2)]
        for settings in [{"method": "random", "domains": ()}, {"method": "simclr"}, *grid]:
            scores = dict(zip(datasets, rng.uniform(9, 90, len(datasets)).round(2), strict=True))
            trials.append(write_trial(storage, config(seed=seed, **settings), scores))
    return [*trials, write_failed(storage, config(lambda2=0.7))]


class _Figure:
    def get_size_inches(self) -> tuple[float, float]:
        return 3.3, 2.0


_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="330" height="200"><rect width="9" height="9"/></svg>'


def stand_in_for_figures() -> types.ModuleType:
    """A module with the interface of `mdssl.figures`; ``module.drawn`` lists the saved files."""
    module = types.ModuleType("mdssl.figures")
    module.drawn = []

    def entry(name: str, title: str) -> types.SimpleNamespace:
        words = {"caption": f"{title} & more", "alt": f'"{title}" from 9 to 90'}
        return types.SimpleNamespace(name=name, figure=name, title=title, draw=_Figure, **words)

    def gallery(board, storage=None):
        absent = {"figure 4": "no trial has <representations> yet"}
        return types.SimpleNamespace(entries=[entry("lambda-curves", "λ curves <&>")], absent=absent)

    def trial_gallery(trial_dir):
        metrics = Location.of(trial_dir) / "metrics.parquet"
        if not metrics.exists():
            return types.SimpleNamespace(entries=[], absent={"loss-terms": "nothing was trained"})
        pd.read_parquet(io.BytesIO(metrics.read_bytes()))
        return types.SimpleNamespace(entries=[entry("loss-terms", "Loss terms")], absent={})

    def save(figure, location):
        module.drawn.append(Location.of(location).name)
        Location.of(location).write_bytes(_SVG)

    module.gallery, module.trial_gallery, module.save = gallery, trial_gallery, save
    return module
