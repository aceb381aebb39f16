"""The leaderboard's columns: names, types, meanings and units."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa

from mdssl.config.methods import METHODS

SCHEMA_VERSION = 4
"""Raise it whenever a column comes, goes or changes its meaning.

2: val_top1, val_knn_top1 and step. 3: val_linear_top1. 4: top1_sd, balanced_accuracy and macro_f1."""

STATUSES = ("finished", "failed", "stopped")

_TEXT, _FLOAT, _INT, _BOOL, _TIME = pa.string(), pa.float64(), pa.int64(), pa.bool_(), pa.timestamp("ms", tz="UTC")


Row = dict[str, Any]
"""A row of the leaderboard: values by name of a column. `mdssl.leaderboard.board.write_rows` checks them."""


class Column(NamedTuple):
    """A column: its name, type, meaning with unit, whether every row has a value, and the first
    schema version that has it."""

    name: str
    type: pa.DataType
    meaning: str
    required: bool = False
    since: int = 1


SETTING_COLUMNS = (
    Column("method", _TEXT, f"one of {', '.join(METHODS)}", required=True),
    Column(
        "train_mixture", _TEXT, "training domains in order, cifar10+svhn; empty if nothing was trained", required=True
    ),
    Column("num_domains", _INT, "training domains; 0 if nothing was trained", required=True),
    Column("lambda1", _FLOAT, "weight of the within-domain term (eq. 3)"),
    Column("lambda2", _FLOAT, "weight of the across-domain term (eq. 4)"),
    Column("temperature", _FLOAT, "temperature of the similarities (eq. 1)"),
    Column("arch", _TEXT, "encoder architecture"),
    Column("stem", _TEXT, "first layers: imagenet or cifar"),
    Column("batching", _TEXT, "joint or per-domain encoder passes"),
    Column("batch_per_domain", _INT, "images of each domain in a step, over all workers"),
    Column("iterations", _INT, "training steps"),
    Column("optimizer", _TEXT, "lars, sgd or adamw"),
    Column("learning_rate", _FLOAT, "peak learning rate"),
    Column("precision", _TEXT, "encoder arithmetic: bf16 or fp32; auto if training failed before it was decided"),
    Column("seed", _INT, "of initial weights, batches and views", required=True),
    Column("num_clusters", _INT, "pseudo-domains; null if the domain labels were used"),
    Column("warmup_iterations", _INT, "steps on the union before the first clustering"),
    Column("recluster_every", _INT, "steps between clusterings"),
    Column("epsilon", _FLOAT, "outlier threshold at the start (eq. 5)"),
    Column("outlier_rule", _TEXT, "farthest or runner-up (eq. 5)"),
    Column("preset", _TEXT, "preset that the settings started from"),
)
"""Settings of the trial. Null where the method has no such setting."""

COLUMNS = (
    Column("trial_id", _TEXT, "hash of everything that can change the encoder: 12 hex digits", required=True),
    Column("sweep", _TEXT, "sweep that produced the row"),
    Column("status", _TEXT, "finished, failed or stopped", required=True),
    Column("error", _TEXT, "why it failed; null otherwise"),
    *SETTING_COLUMNS,
    Column("eval_dataset", _TEXT, "dataset that was scored; null if the trial failed before"),
    Column("seen", _BOOL, "whether the encoder was trained on that dataset"),
    Column("features", _TEXT, "layer that was scored: encoder or projection"),
    Column("probe", _TEXT, "linear probe, with those of its settings that are not the default"),
    Column("top1", _FLOAT, "linear probe, test split, at the end of training: percent"),
    Column(
        "top1_sd", _FLOAT, "sample standard deviation of top1 over the probe's seeds: percent; null for one", since=4
    ),
    Column("top5", _FLOAT, "the same, class among the five best: percent; null with five classes or fewer"),
    Column(
        "balanced_accuracy",
        _FLOAT,
        "linear probe: mean recall of the classes with test images: percent; null in rows of versions 1 to 3",
        since=4,
    ),
    Column(
        "macro_f1",
        _FLOAT,
        "linear probe: mean F1 of the classes with test images or predictions: percent; null as before",
        since=4,
    ),
    Column("knn_top1", _FLOAT, "weighted nearest neighbors, test split: percent"),
    Column(
        "val_top1",
        _FLOAT,
        "the linear probe of this row fitted on a part of the train images and scored on the held-out rest, by which "
        "settings are chosen: percent",
        since=2,
    ),
    Column("val_knn_top1", _FLOAT, "weighted nearest neighbors, held-out train images: percent", since=2),
    Column(
        "val_linear_top1",
        _FLOAT,
        "ridge regression, held-out train images, by which trials are stopped early: percent",
        since=3,
    ),
    Column("num_classes", _INT, "classes of the evaluation dataset"),
    Column("num_train", _INT, "train images of the evaluation dataset"),
    Column("num_test", _INT, "test images of the evaluation dataset"),
    Column("step", _INT, "steps trained; less than iterations in a stopped row", since=2),
    Column("train_seconds", _FLOAT, "wall time of training, over all resumptions: s"),
    Column("eval_seconds", _FLOAT, "wall time of this score: s"),
    Column("gpu_hours", _FLOAT, "train_seconds times GPUs, or the share of one: h"),
    Column("num_workers", _INT, "training processes"),
    Column("device", _TEXT, "device of the workers"),
    Column(
        "views_seen",
        _INT,
        "augmented images that went through the encoder, including those of a trial that it continued",
    ),
    Column("views_per_second", _FLOAT, "views of the steps that it trained itself / train_seconds: 1/s"),
    Column("peak_memory_mb", _FLOAT, "largest memory use of one worker, on its GPU if it has one: MB"),
    Column("encoder_mb", _FLOAT, "size of the saved encoder: MB"),
    Column("final_loss", _FLOAT, "training loss, mean of the steps of the last report"),
    Column("config_json", _TEXT, "every setting of trial and evaluation, as JSON", required=True),
    Column("data_fingerprint", _TEXT, "hash of the training images"),
    Column("git_commit", _TEXT, "commit of the code; -dirty where files differed"),
    Column("mdssl_version", _TEXT, "version of this package", required=True),
    Column("torch_version", _TEXT, "version of PyTorch"),
    Column("ray_version", _TEXT, "version of Ray; null if it was not used"),
    Column("started_at", _TIME, "when the trial began: UTC"),
    Column("finished_at", _TIME, "when the row was written: UTC"),
    Column("checkpoint", _TEXT, "location of the encoder's weights"),
    Column("schema_version", _INT, "version of these columns", required=True),
)
"""All columns, in the order of the files."""

MEASURES = (
    Column("similarity_within", _FLOAT, "mean cosine similarity between the means of different classes of the dataset"),
    Column(
        "similarity_across",
        _FLOAT,
        "the same between its classes and those of the other training domains, each domain counting the same",
    ),
    Column("alignment", _FLOAT, "squared distance between two views of an image, mean of the last tenth of training"),
    Column("uniformity", _FLOAT, "log of the mean of exp(-2 squared distance) over pairs of test images"),
    Column(
        "neighbors_own", _FLOAT, "nearest training images that are of the dataset itself, if it is trained on: percent"
    ),
)
"""Columns that `mdssl.tables.measures.add_measures` adds and that a file of rows may have. All are of projections
scaled to length 1, but the neighbors, which are of encoder features."""
MEASURE_NAMES = tuple(column.name for column in MEASURES)

SCHEMA = pa.schema([pa.field(column.name, column.type, nullable=not column.required) for column in COLUMNS])

_EARLIER = {
    version: [column.name for column in COLUMNS if column.since <= version] for version in range(1, SCHEMA_VERSION)
}
"""The names of the columns of each earlier schema version."""


def as_now(table: pa.Table) -> pa.Table:
    """Add the later columns, with null, to a table of an earlier schema version; other tables are unchanged."""
    versions = [version for version, names in _EARLIER.items() if names == table.column_names]
    if not versions:
        return table
    for number, column in enumerate(COLUMNS):
        if column.since > versions[0]:
            nothing = pa.array([None] * len(table), column.type)
            table = table.add_column(number, SCHEMA.field(number), nothing)
    return table
