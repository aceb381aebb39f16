"""The cost of a search until it finds a setting within half a point of the best of a grid.

A recorded table, ``search.parquet``, has all settings of a grid over λ1, λ2, learning rate and temperature, with their
validation scores during training, their final validation scores, by which a setting is chosen, and their test scores. A
search is replayed on the table with a virtual clock, on which a training step takes one unit. It reaches the target
when the trial with the best validation score, of those that trained to the end, is within half a point of the table's
best. The cost until then is a fraction of the cost of the grid.

Ours are random, TPE, ASHA and TPE + ASHA, by the functions of mdssl. The peers are Optuna's default sampler with two of
its pruners, and Syne Tune's ASHA, all with the same rungs. Peers may propose a setting twice; steps that the setting
has already trained are then free. First it is checked that our TPE without ASHA trains each setting once, that Optuna
chooses the same setting as ours from the same trials, and that ASHA decides as Syne Tune's if the rules coincide.

    python bench/search.py
    python bench/search.py --record STORAGE --command "python sweeps/search.py …"    # make the table, from a sweep

The command that made the table is in its metadata: ``pyarrow.parquet.read_schema("bench/search.parquet").metadata``.

The trials of the table are short, and the images are subsets of CIFAR-10 and SVHN. The results may not hold for trials
of another size.
"""

from __future__ import annotations

import io
import json
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from harness import AGAIN, Report, arguments
from replay import AXES, FACTOR, HALF_A_POINT, QUARTER, Contender, Table, contenders, outcome, replay
from scipy.stats import spearmanr

from mdssl.leaderboard import board as leaderboard
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.sweep.search.rules import ends_early

TABLE = Path(__file__).with_suffix(".parquet")


def check(table: Table, made: Mapping[str, Callable[[int], Contender]]) -> str:
    """Assert that contenders do the same thing, and return a description of the comparison."""
    whole = [setting for _, setting in replay(table, made["TPE"](0), 1)]
    assert sorted(whole) == list(range(len(table.points))), "TPE without ASHA has not tried each setting once"
    study = made["Optuna, SuccessiveHalvingPruner"](0)
    chosen = max(table.value[setting] for _, setting in replay(table, study, 1))
    assert study.study.best_value == chosen, "Optuna chooses another setting from the same trials"
    if "Syne Tune, ASHA" not in made:
        return "Syne Tune is not installed, so it is left out."
    same, count = 0, 0
    for seed in range(10):
        peer, others = made["Syne Tune, ASHA"](seed), {}
        settings = made["ASHA"](seed).settings
        for number, setting in enumerate(np.random.default_rng(seed).permutation(len(table.points))):
            score = float(table.scores[setting, 0])
            peer.add(number, table.points[setting])
            theirs = peer.ends(number, table.steps[0], score)
            own = ends_early(settings, settings.iterations, {table.steps[0]: score}, others)
            # Ours interpolates between scores of other trials, Syne Tune uses ranks: equal with 1, 4, 7, … others.
            assert own == theirs or number % FACTOR != 1, f"ASHA decides otherwise on trial {number} of stream {seed}"
            same, count, others = same + (own == theirs), count + 1, others | {str(number): {table.steps[0]: score}}
    return (
        f"{same} of {count} decisions of ASHA at the first rung are those of Syne Tune, all where the rules coincide."
    )


def rank_correlations(table: Table) -> list[list[str]]:
    """Spearman's rank correlation of the validation score with the final one and with the test score, by step."""
    rows = []
    for position, step in enumerate(table.steps):
        scores = table.scores[:, position]
        found = [f"{spearmanr(scores, final).statistic:.2f}" for final in (table.value, table.test)]
        rows.append([str(step), *found])
    return [*rows, ["linear probe", "1.00", f"{spearmanr(table.value, table.test).statistic:.2f}"]]


def record(storage: Location, command: str) -> None:
    """Write the table of a finished sweep in ``storage``: a row for each setting and step with a score.

    ``val_linear_top1`` and the final ``val_top1`` and ``top1`` are means over the evaluation datasets; ``seconds`` is
    the training time of the trial.
    """
    rows = leaderboard.read(storage)
    rows = rows[(rows["method"] == "mdssl") & (rows["status"] == "finished")]
    records = []
    for trial_id, own in rows.groupby("trial_id"):
        names, first = list(own["eval_dataset"]), own.iloc[0]
        data = (trial_dir_in(storage, str(trial_id)) / "metrics.parquet").read_bytes()
        curve = pq.read_table(io.BytesIO(data)).to_pandas().set_index("step")
        scores = curve[[f"val_linear_top1/{name}" for name in names]].mean(axis=1, skipna=False).dropna()
        # The score of the last step comes from the evaluation.
        scores[first["iterations"]] = own["val_linear_top1"].mean()
        final = {f"top1/{name}": value for name, value in zip(names, own["top1"], strict=True)}
        final |= {name: own[name].mean() for name in ("val_top1", "top1")} | {"seconds": first["train_seconds"]}
        for step, score in scores.items():
            records.append({axis: first[axis] for axis in AXES} | {"step": step, "val_linear_top1": score} | final)
    table = pa.Table.from_pandas(pd.DataFrame(records).sort_values([*AXES, "step"]).round(3), preserve_index=False)
    about = {"command": command, "images": ", ".join(sorted(set(rows["data_fingerprint"])))}
    about |= {"versions": json.dumps({key: rows[key].iloc[0] for key in ("mdssl_version", "torch_version")})}
    pq.write_table(table.replace_schema_metadata(about), TABLE, compression="zstd")


def compare(table: Table, seeds: int) -> None:
    report = Report("% of the grid's cost", peer="")
    best = int(table.value.argmax())
    report.note(
        f"{len(table.points)} settings, {len(table.steps)} scores each. Final validation scores: "
        f"{table.value.min():.1f} to {table.value.max():.1f}, median {np.median(table.value):.1f}; "
        f"{int((table.value >= table.value.max() - HALF_A_POINT).sum())} within half a point of the best, which is "
        f"{table.points[best]} with a test top-1 of {table.test[best]:.1f} (the table's best: {table.test.max():.1f})."
    )
    header = ["step", "with the final validation score", "with the test score"]
    report.table("Rank correlation (Spearman) of the validation score", header, rank_correlations(table))
    costs: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory(prefix="mdssl-bench-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = contenders(table, Path(folder))
        report.note(check(table, made))
        turns = [(name, name, 0) for name in made]
        turns.insert(1, (next(iter(made)) + AGAIN, next(iter(made)), seeds))
        for slots in (1, 4):
            rows = []
            for label, name, first in turns:
                found = [outcome(table, made[name](seed), slots) for seed in range(first, first + seeds)]
                ordered = sorted(each.cost for each in found)
                costs[label, slots] = statistics.median(ordered)
                within = sum(each.cost <= QUARTER for each in found)
                gap = statistics.mean(each.gap for each in found)
                tests = [each.test for each in found if each.cost < float("inf")]
                cells = [share(costs[label, slots]), share(ordered[int(0.9 * (seeds - 1))]), f"{within} of {seeds}"]
                cells += [f"{len(tests)} of {seeds}", f"{gap:.2f}", f"{statistics.mean(tests):.1f}" if tests else ""]
                rows.append([label, *cells])
            title = f"Cost to the target, {slots} trial(s) at a time, {seeds} seeds: parts of the grid's cost"
            columns = ["median", "9 of 10 seeds", "at a quarter", "at all", "points below, at a quarter", "test top-1"]
            report.table(title, ["", *columns], rows)
    ours = 100 * costs["TPE + ASHA", 1]
    peers = {name: 100 * costs[name, 1] for name in made if name.startswith(("Optuna", "Syne"))}
    report.peer = min(peers, key=peers.__getitem__)
    claim = "cost of a setting within half a point of the best, TPE + ASHA, one trial at a time"
    peer = peers[report.peer]
    report.claim(claim, ours=round(ours, 1), peer=round(peer, 1), ratio=round(peer / ours, 2))


def share(cost: float) -> str:
    return f"{cost:.0%}" if cost < float("inf") else "never"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--record", metavar="STORAGE", help="make the table from the trials of a finished sweep")
    parser.add_argument("--command", default="", help="with --record: the command of that sweep, kept in the table")
    parser.set_defaults(rounds=30)
    args = parser.parse_args()
    if not args.record and not TABLE.exists():
        parser.error(f"there is no table {TABLE.name} yet; make it from the trials of a sweep with --record")
    if args.record:
        record(Location.of(args.record), args.command)
    else:
        compare(Table.read(TABLE), args.rounds)


if __name__ == "__main__":
    main()
