"""All views show the same differences to the baseline and the same means over datasets."""

import io
import re

import pandas as pd
import pytest
from factories import row
from rich.console import Console

from mdssl.config.trial import TrialConfig
from mdssl.figures.cost import costs_and_scores
from mdssl.leaderboard.board import read, with_settings, write_rows
from mdssl.report.overview import trial_table
from mdssl.storage.location import Location
from mdssl.sweep.settings import SweepSettings
from mdssl.sweep.summary import print_results
from mdssl.tables.printing import print_leaderboard, print_one_table
from mdssl.tables.render import TERMINAL_ROWS
from mdssl.tables.sweep_table import sweep_table
from mdssl.tables.view import view
from mdssl.trials.rows import failed_row

DOMAINS = ("cifar10", "svhn")
# The differences of the first mdssl trial are -5.5, -8.0, -7.8 and 0.7. Their mean is -5.15, so at one decimal it can
# differ from the difference of the means by the order of summation. One baseline has no score on dtd, but other trials
# do: means leave out dtd, while a difference of means would include it. The last trial has no score on eurosat.
SCORES = {
    ("simclr", 0): {"cifar10": 39.6, "svhn": 43.7, "stl10": 53.9, "eurosat": 70.1, "dtd": 5.0},
    ("simclr", 1): {"cifar10": 39.1, "svhn": 47.9, "stl10": 51.7, "eurosat": 70.6},
    ("mdssl", 0): {"cifar10": 34.1, "svhn": 35.7, "stl10": 46.1, "eurosat": 70.8, "dtd": 95.0},
    ("mdssl", 1): {"cifar10": 40.0, "svhn": 43.0, "stl10": 43.2, "eurosat": 69.7, "dtd": 96.0},
    ("other", 0): {"cifar10": 99.0, "svhn": 99.0, "stl10": 99.0, "dtd": 99.0},
}
EXPECTED = {
    key: sum(SCORES[key][name] - SCORES["simclr", key[1]][name] for name in ("cifar10", "svhn", "stl10", "eurosat")) / 4
    for key in SCORES
    if key[0] == "mdssl"
}
LAMBDAS = {"simclr": {"method": "simclr"}, "mdssl": {"lambda2": 0.1}, "other": {"lambda1": 0.5, "lambda2": 0.1}}
CONFIGS = {
    (name, seed): TrialConfig(domains=DOMAINS, seed=seed, precision="fp32", **LAMBDAS[name]) for name, seed in SCORES
}
CONTEXT = {"sweep": "test", "preset": "quick", "git_commit": "", "ray_version": ""}


OTHERS = ("stl10", "eurosat", "dtd")
# Trials of a second mixture. Their scores lack two datasets that the means of the first mixture include.
OTHER_SCORES = {
    ("simclr", 0): {"stl10": 61.3, "eurosat": 74.9, "dtd": 8.0},
    ("mdssl", 0): {"stl10": 58.2, "eurosat": 77.7, "dtd": 9.9, "svhn": 50.0},
    ("other", 0): {"stl10": 60.2, "eurosat": 70.7, "dtd": 3.9},
}
OTHER_EXPECTED = {
    key: sum(OTHER_SCORES[key][name] - OTHER_SCORES["simclr", 0][name] for name in OTHERS) / 3
    for key in OTHER_SCORES
    if key[0] != "simclr"
}
OTHER_CONFIGS = {
    (name, seed): TrialConfig(domains=OTHERS, seed=seed, precision="fp32", **LAMBDAS[name])
    for name, seed in OTHER_SCORES
}


def write(storage: str, configs: dict, scores: dict) -> str:
    for key, config in configs.items():
        made = failed_row(config, "", context=CONTEXT, started_at="2026-11-02T10:00:00+00:00")
        rows = []
        for name, top1 in scores[key].items():
            seen = name in config.domains
            own = {"features": "encoder", "probe": "lbfgs", "top1": top1, "seen": seen, "eval_dataset": name}
            counts = {column: row(name)[column] for column in ("num_classes", "num_train", "num_test")}
            cost = {"train_seconds": 60.0, "num_workers": 1, "device": "cpu"}
            rows.append(made | own | counts | cost | {"status": "finished", "error": None})
        write_rows(storage, config.trial_id, rows)
    return storage


@pytest.fixture
def swept(storage) -> str:
    return write(storage, CONFIGS, SCORES)


def printed(text: str) -> dict[tuple[str, int], str]:
    """The last cell of the row of each trial, by its method and seed."""
    lines = [line.split()[1:] for line in text.splitlines() if re.match("[0-9a-f]{12} +(simclr|mdssl) ", line)]
    names = {("simclr", "1"): "simclr", ("mdssl", "1"): "mdssl", ("mdssl", "0.5"): "other"}
    return {(names[method, lambda1], int(seed)): cells[-1] for method, lambda1, _, seed, *cells in lines}


def test_the_difference_to_the_baseline_is_the_same_in_all_views(swept, capsys, monkeypatch):
    shown = {key: f"{round(value, 1) + 0.0:+.1f}" for key, value in EXPECTED.items()}
    shown |= dict.fromkeys(SCORES.keys() - EXPECTED.keys(), "-")
    console = Console(file=io.StringIO(), width=200)
    print_leaderboard(swept, console=console)
    assert printed(console.file.getvalue()) == shown

    console = Console(file=io.StringIO(), width=200)
    settings = SweepSettings(domains=DOMAINS, evaluate=tuple(SCORES["simclr", 0]), storage=swept, data=swept)
    # The plan of remaining trials would need the images.
    monkeypatch.setattr("mdssl.sweep.summary.plan", lambda *_: [])
    print_results(console, "sweep", settings, Location.of(swept), list(CONFIGS.values()))
    by_trial, means = console.file.getvalue().split("means over seeds: ")
    assert printed(by_trial) == shown
    one, other = EXPECTED["mdssl", 0], EXPECTED["mdssl", 1]
    assert f"{(one + other) / 2:+.1f} ± {abs(one - other) / 2**0.5:.1f} (2)" in means

    rows = with_settings(read(swept))
    frame = view(rows, baseline=("simclr",)).frame.set_index("trial_id")
    found = {key: frame.loc[config.trial_id, "average_vs_simclr"] for key, config in CONFIGS.items()}
    assert {key: value for key, value in found.items() if pd.notna(value)} == EXPECTED
    asked = {"choice": {}, "where": [], "columns": (), "baseline": ("simclr",), "sort": ("average_vs_simclr:desc",)}
    print_one_table(swept, **asked, format="markdown", output=None)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    cells = [line.strip("| ").split(" | ") for line in lines]
    by_id = {own[0]: own[-1].strip("*") for own in cells}
    assert {key: by_id[config.trial_id] for key, config in CONFIGS.items()} == shown
    last = {CONFIGS[key].trial_id for key in SCORES.keys() - EXPECTED.keys()}
    assert {own[0] for own in cells[-3:]} == last, "trials without a difference rank last"

    table = trial_table(rows)
    (place,) = [number for number, column in enumerate(table.columns) if column.name == "vs simclr"]
    of_report = {own.trial_id: own.cells[place][0].replace("–", "-") for own in table.rows}
    assert {key: of_report[config.trial_id] for key, config in CONFIGS.items()} == shown

    over = view(rows, over_seeds=True, baseline=("simclr",)).frame.set_index(["method", "lambda1"])
    mean = (EXPECTED["mdssl", 0] + EXPECTED["mdssl", 1]) / 2
    assert over.loc[("mdssl", 1.0), "average_vs_simclr_mean"] == mean


def test_means_and_differences_of_a_mixture_do_not_depend_on_other_mixtures(swept):
    write(swept, OTHER_CONFIGS, OTHER_SCORES)
    rows = with_settings(read(swept))
    expected = {CONFIGS[key].trial_id: EXPECTED[key] for key in EXPECTED}
    expected |= {OTHER_CONFIGS[key].trial_id: OTHER_EXPECTED[key] for key in OTHER_EXPECTED}
    shown = {trial_id: f"{round(value, 1) + 0.0:+.1f}" for trial_id, value in expected.items()}
    frame = view(rows, baseline=("simclr",)).frame.set_index("trial_id")
    assert frame["average_vs_simclr"].dropna().to_dict() == pytest.approx(expected)
    own = [row for row in trial_table(rows).rows if row.trial_id in shown]
    (place,) = [number for number, column in enumerate(trial_table(rows).columns) if column.name == "vs simclr"]
    assert {row.trial_id: row.cells[place][0] for row in own} == shown
    for mixture in sorted(set(rows["train_mixture"])):
        datasets = sorted(rows["eval_dataset"].unique())
        alone = sweep_table(rows, mixtures=[mixture], datasets=datasets)["vs simclr"].dropna()
        assert alone.to_dict() == pytest.approx({name: expected[name] for name in alone.index})
        assert set(alone.index) == set(expected) & set(rows["trial_id"][rows["train_mixture"] == mixture])
        kept = rows[rows["train_mixture"] == mixture]
        averages = view(kept, baseline=("simclr",)).frame.set_index("trial_id")["average"].dropna()
        assert averages.to_dict() == frame["average"].dropna()[averages.index].to_dict()


def test_a_score_that_a_trial_and_its_baseline_lack_does_not_change_the_means_of_others(storage):
    configs = {
        (name, seed): TrialConfig(domains=DOMAINS, seed=seed, precision="fp32", **LAMBDAS[name])
        for name in ("simclr", "mdssl")
        for seed in range(3)
    }
    scores = {key: {"cifar10": 50.0 + key[1], "svhn": 60.0, "stl10": 30.0} for key in configs}
    for seed in range(3):
        scores["mdssl", seed] = {"cifar10": 53.0 + seed, "svhn": 58.0, "stl10": 31.0 + seed}
    for name in ("simclr", "mdssl"):
        del scores[name, 2]["svhn"]
    rows = with_settings(read(write(storage, configs, scores)))
    alone = sweep_table(rows, mixtures=["+".join(DOMAINS)], datasets=["cifar10", "svhn", "stl10"])
    frame = view(rows, baseline=("simclr",)).frame.set_index("trial_id").loc[alone.index]
    assert alone["vs simclr"].notna().sum() == 2
    pd.testing.assert_series_equal(frame["average_vs_simclr"], alone["vs simclr"], check_names=False)


def test_means_over_datasets_are_the_same_in_tables_and_figures(swept):
    # Costs of trials with equal computation are not drawn, so the numbers of workers differ.
    points = costs_and_scores(read(swept).assign(num_workers=lambda rows: 1 + rows["seed"])).set_index("trial_id")
    frame = view(with_settings(read(swept))).frame.set_index("trial_id")
    assert set(points.index) == set(frame.index[frame["average"].notna()])
    assert points["score"].to_dict() == frame.loc[points.index, "average"].to_dict()


def test_notes_name_the_datasets_left_out_and_the_trials_without_a_mean(swept):
    notes = view(with_settings(read(swept)), baseline=("simclr",)).notes
    assert notes == (
        "averages are over cifar10, eurosat, stl10, svhn; left out, because a baseline or most trials lack a "
        "score: dtd",
        f"no average, because of a missing score on eurosat: {CONFIGS['other', 0].trial_id}",
    )


def test_a_terminal_shows_the_first_rows_and_the_total_number(storage, tmp_path):
    for number in range(TERMINAL_ROWS + 5):
        write_rows(storage, f"{number:012x}", [row("svhn", seed=number)])
    console = Console(file=io.StringIO(), width=80)
    print_leaderboard(storage, console=console)
    lines = console.file.getvalue().splitlines()
    assert sum(bool(re.match("[0-9a-f]{12} mdssl ", line)) for line in lines) == TERMINAL_ROWS
    assert f"{TERMINAL_ROWS} of {TERMINAL_ROWS + 5} rows; all with mdssl leaderboard --output FILE" in lines
    for name in ("all.txt", "all.html"):
        file = tmp_path / name
        print_one_table(storage, choice={}, where=[], columns=(), format=None, output=str(file))
        assert file.read_text().count(" mdssl ") + file.read_text().count(">mdssl<") == TERMINAL_ROWS + 5
