"""Leaderboard rows as trials write them."""

from mdssl.data.sources.catalog import CATALOG


def counts_of(dataset: str | None) -> dict[str, int]:
    """Classes and images of the whole published dataset, or of a small one of the user's own."""
    published = CATALOG[dataset].published if dataset in CATALOG else None
    if published is None:
        return {"num_classes": 10, "num_train": 100, "num_test": 50}
    train, test = published.prepared_counts
    return {"num_classes": published.classes, "num_train": train, "num_test": test}


def row(eval_dataset: str | None = "svhn", **changes) -> dict:
    """A finished row; ``changes`` are columns with other values."""
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
    """The one row of a trial that failed before it was scored."""
    nothing = dict.fromkeys(("seen", "features", "probe", "top1", "num_classes", "num_train", "num_test"))
    return row(None, **nothing) | {"status": "failed", "error": error} | changes


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
