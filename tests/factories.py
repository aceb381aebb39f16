"""Test data: tiny datasets, a trial that trains on them in seconds, and rows of the leaderboard."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdssl.config.probe import ProbeConfig
from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.data.sources.catalog import CATALOG
from mdssl.storage.claim_files import Owner, machine

CONTEXT = {"sweep": "test", "preset": "quick", "git_commit": "", "ray_version": ""}
"""Columns that a sweep adds to the rows of its trials."""
TINY = {
    "arch": "resnet18",
    "domains": ("tiny-a", "tiny-b"),
    "batch_per_domain": 8,
    "iterations": 6,
    "lr_warmup_iterations": 2,
    "learning_rate": 0.5,
    "precision": "fp32",
    "lambda1": 0.9,
    "lambda2": 0.1,
}


def tiny_trial(**changes) -> TrialConfig:
    """MDSSL with a ResNet-18 in float32 on tiny-a and tiny-b; ``changes`` are settings with other values."""
    return TrialConfig(**TINY | changes)


def clustered_trial(**changes) -> TrialConfig:
    """A `tiny_trial` of 12 steps of the robust method on three domains, which clusters after steps 2, 5, 8 and 11."""
    clustered = {"method": "mdssl-robust", "domains": ("tiny-a", "tiny-b", "tiny-c"), "iterations": 12}
    return tiny_trial(**clustered | {"warmup_iterations": 2, "recluster_every": 3} | changes)


def trial_run(storage: str, data: str, **changes):
    """A `mdssl.sweep.training.TrialRun` on the CPU, in the process of the trial."""
    from mdssl.sweep.training import TrialRun  # imports Ray, which few tests need

    values = {
        "probe": ProbeConfig(), "settings": RunSettings(track=()), "executor": "inline", "workers": 1,
        "cpus_per_worker": 1, "gpus_per_worker": 0, "context": CONTEXT, "evaluate": (), "rungs": (),
        "needs_validation": False, "keep_checkpoints": False,
    }  # fmt: skip
    return TrialRun(storage=storage, data=data, **values | changes)


class Killed(BaseException):
    """Simulates a kill within the process of the test. It is not an Exception, so that no handler catches it."""


def kill_at(step: int):
    """A callback for ``train(report=)`` that raises `Killed` at ``step``."""

    def report(progress) -> None:
        if progress.step == step:
            raise Killed

    return report


def stripes(
    rng: np.random.Generator, count: int, classes: int, size: int, tint: float
) -> tuple[np.ndarray, np.ndarray]:
    """Noisy stripes whose width gives the class, which an encoder learns in a second."""
    labels = np.arange(count) % classes
    phase = rng.uniform(0, 6.28, count)[:, None] + np.arange(size) * (0.5 + labels[:, None])
    images = np.sin(phase)[:, None, :, None] * 60 + rng.normal(128 + tint, 20, (count, size, size, 3))
    return images.clip(0, 255).astype(np.uint8), labels.astype(np.int64)


def prepare_arrays(name: str, data: str | Path, size: int, **arrays: np.ndarray) -> None:
    """Prepare a dataset from ``train_images``, ``train_labels``, ``test_images`` and ``test_labels``."""
    from mdssl.data.prepare import prepare

    source = Path(data).with_name(f"{name}.npz")
    np.savez(source, **arrays)
    prepare(name, data=data, source=source, image_size=size, workers=1, progress=False)


def prepare_tiny(folder: Path) -> str:
    """Make a data folder with the domains tiny-a, tiny-b and tiny-c: 4 classes, 16×16, 64 train and 32 test images."""
    for seed, name in enumerate(("tiny-a", "tiny-b", "tiny-c")):
        rng = np.random.default_rng(seed)
        arrays = {}
        for split, count in (("train", 64), ("test", 32)):
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = stripes(rng, count, 4, 16, tint=40 * (seed - 1))
        prepare_arrays(name, folder / "data", 16, **arrays)
    return str(folder / "data")


def counts_of(dataset: str | None) -> dict[str, int]:
    """Numbers of classes and images of a published dataset, or of a small dataset of the user."""
    published = CATALOG[dataset].published if dataset in CATALOG else None
    if published is None:
        return {"num_classes": 10, "num_train": 100, "num_test": 50}
    train, test = published.prepared_counts
    return {"num_classes": published.classes, "num_train": train, "num_test": test}


def row(eval_dataset: str | None = "svhn", **changes) -> dict:
    """The row of a finished trial; ``changes`` are columns with other values."""
    return {
        "status": "finished",
        "sweep": "lambda_grid",
        "method": "mdssl",
        "train_mixture": "cifar10+svhn",
        "num_domains": 2,
        "lambda1": 0.9,
        "lambda2": 0.1,
        "temperature": 0.1,
        "arch": "resnet18",
        "iterations": 150,
        "seed": 0,
        "eval_dataset": eval_dataset,
        "seen": eval_dataset in ("cifar10", "svhn"),
        "features": "encoder",
        "probe": "lbfgs",
        "top1": 50.0,
        **counts_of(eval_dataset),
        "config_json": "{}",
        "mdssl_version": "0.1.0",
        "started_at": "2026-11-02T10:00:00.250+00:00",
        **changes,
    }


def failed(error: str = "the loss is nan", **changes) -> dict:
    """The row of a trial that failed before evaluation."""
    nothing = dict.fromkeys(("seen", "features", "probe", "top1", "num_classes", "num_train", "num_test"))
    return row(None, **nothing) | {"status": "failed", "error": error} | changes


def stopped(eval_dataset: str = "svhn", **changes) -> dict:
    """A row of a trial that was stopped early, at step 50 of 150 with a validation score of 40 %."""
    nothing = dict.fromkeys(("probe", "top1", "num_classes", "num_train", "num_test"))
    return row(eval_dataset, **nothing) | {"status": "stopped", "step": 50, "val_linear_top1": 40.0} | changes


UNTRAINED = {
    "method": "random",
    "train_mixture": "",
    "num_domains": 0,
    "lambda1": None,
    "lambda2": None,
    "temperature": None,
    "iterations": 0,
    "seen": False,
}


class LikeCuda(str):
    """The CPU, with a name that passes for a GPU in ``startswith("cuda")``."""

    def __str__(self) -> str:
        return "like-cuda"

    def startswith(self, prefix: str) -> bool:
        return prefix == "cuda"


def rows_file(storage: str, trial_id: str) -> Path:
    """The file with the rows of a trial in the leaderboard."""
    return Path(storage, "leaderboard", f"{trial_id}.parquet")


def each(*folders: str) -> list[str]:
    """Paths of two images in each of ``folders``."""
    return [f"{folder}/{number}.png" for folder in folders for number in range(2)]


def dead_owner(token: str = "dead") -> Owner:
    """An owner on this machine whose process does not exist: its process id is above the maximum."""
    return Owner(token, "here", pid=2**23, machine=machine(), started=1)
