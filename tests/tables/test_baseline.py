"""Paired differences, compared with a slow search for the baseline of each row and with scipy."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from factories import UNTRAINED, row

from mdssl.leaderboard.columns import SCHEMA
from mdssl.tables.baseline import find_baselines, incomplete_baselines
from mdssl.tables.compare import paired
from mdssl.tables.select import Condition
from mdssl.tables.statistics import over_seeds, p_values
from mdssl.tables.view import view

SIMCLR = {"method": "simclr", "lambda1": 1.0, "lambda2": 0.0}
TRAINED = [
    {"seed": seed, "temperature": temperature, "train_mixture": mixture}
    for seed, temperature, mixture in itertools.product(range(3), (0.1, 0.5), ("cifar10+svhn", "cifar10+stl10"))
]
MDSSL = [{"lambda1": 0.9, "lambda2": 0.1}, {"lambda1": 1.0, "lambda2": 0.0}]


def board(trials: list[dict], datasets=("cifar10", "svhn")) -> pd.DataFrame:
    """Rows of trials with random scores and all settings."""
    draw = np.random.default_rng(0)
    rows = [
        dict.fromkeys(SCHEMA.names) | row(name, top1=draw.uniform(20, 90), **trial) | {"trial_id": f"{number:012x}"}
        for number, trial in enumerate(trials)
        for name in datasets
    ]
    df = pd.DataFrame(rows).astype({"seed": "Int64", "seen": "boolean", "top1": float, "lambda1": float})
    # Different domains have different fingerprints, as in a real leaderboard.
    return df.assign(weight_decay=1e-6, eval_fingerprint=df["eval_dataset"], data_fingerprint=df["train_mixture"])


def differences(rows: pd.DataFrame, df: pd.DataFrame, wanted: list[str]) -> pd.Series:
    return paired(rows, df, find_baselines(rows, df, wanted))["top1"]


GRID = [trial | own for trial in TRAINED for own in (SIMCLR, *MDSSL)]


def test_a_row_is_compared_with_the_baseline_of_its_mixture_seed_and_temperature():
    df = board(GRID)
    found = differences(df, df, ["simclr"])
    same = ["train_mixture", "seed", "temperature", "eval_dataset"]
    for number, own in df.iterrows():
        (partner,) = [
            other["top1"]
            for _, other in df[df["method"] == "simclr"].iterrows()
            if all(other[name] == own[name] for name in same)
        ]
        if own["method"] == "simclr":
            assert np.isnan(found[number]), "a baseline has no difference to itself"
        else:
            assert found[number] == own["top1"] - partner


def test_rows_without_a_matching_baseline_have_no_difference():
    df = board([trial for trial in GRID if trial.get("method") != "simclr" or trial["seed"] == 1])
    found = differences(df, df, ["simclr"])
    assert found.notna().tolist() == ((df["seed"] == 1) & (df["method"] != "simclr")).tolist()


def test_settings_given_for_the_baseline_need_not_match():
    df = board(GRID)
    found = differences(df, df, ["simclr", "temperature=0.5", "train_mixture=cifar10+stl10"])
    for (seed, dataset), own in df.groupby(["seed", "eval_dataset"]):
        chosen = df[(df["method"] == "simclr") & (df["temperature"] == 0.5) & (df["seed"] == seed)]
        chosen = chosen[(chosen["train_mixture"] == "cifar10+stl10") & (chosen["eval_dataset"] == dataset)]
        others = own.drop(chosen.index)
        assert (found[others.index] == others["top1"] - chosen["top1"].item()).all()
        assert found[chosen.index].isna().all()


def test_a_baseline_given_by_trial_id_includes_its_other_seeds():
    df = board(GRID)
    trial = df[(df["lambda1"] == 0.9) & (df["temperature"] == 0.1)].iloc[0]
    found = differences(df, df, [trial["trial_id"]])
    alike = df[
        (df["lambda1"] == 0.9) & (df["temperature"] == 0.1) & (df["train_mixture"] == trial["train_mixture"])
    ].set_index(["seed", "eval_dataset"])["top1"]
    expected = df["top1"] - [alike[key] for key in zip(df["seed"], df["eval_dataset"], strict=True)]
    # The trial and its repetitions have no difference to themselves.
    assert found.dropna().to_dict() == expected[expected != 0].to_dict() and (expected == 0).sum() == len(alike)


def test_untrained_encoders_are_compared_by_seed_and_only_with_a_single_mixture():
    untrained = [UNTRAINED | {"seed": seed} for seed in range(3)]
    one = [trial for trial in GRID if trial["train_mixture"] == "cifar10+svhn" and trial["temperature"] == 0.1]
    df = board([*one, *untrained])
    simclr = df[df["method"] == "simclr"].set_index(["seed", "eval_dataset"])["top1"]
    random = df[df["method"] == "random"]
    found = differences(random, df, ["simclr"])
    theirs = [simclr[key] for key in zip(random["seed"], random["eval_dataset"], strict=True)]
    assert found.tolist() == (random["top1"] - theirs).tolist()
    floor = differences(df, df, ["random"])
    assert floor.notna().tolist() == (df["method"] != "random").tolist()
    df = board([*GRID, *untrained])
    assert differences(df[df["method"] == "random"], df, ["simclr"]).isna().all()


def test_scores_on_different_images_have_no_difference():
    df = board([SIMCLR, MDSSL[0]])
    is_old = (df["method"] == "mdssl") & (df["eval_dataset"] == "svhn")
    shown = ("method", "eval_dataset", "eval_fingerprint", "top1")
    for images, compared in (("svhn", 2), ("old", 1), ("", 2), (None, 2)):
        both = df.assign(eval_fingerprint=df["eval_fingerprint"].mask(is_old, images))
        assert differences(both, both, ["simclr"]).notna().sum() == compared
        frame = view(both, columns=shown, baseline=("simclr",)).frame
        assert frame["top1_vs_simclr"].notna().sum() == compared
        without = both.drop(columns="eval_fingerprint")
        assert differences(without, without, ["simclr"]).notna().sum() == 2


def test_means_and_intervals_match_a_paired_t_test():
    df = board([{"seed": seed, **own} for seed in range(5) for own in (SIMCLR, MDSSL[0])], datasets=("svhn",))
    shown = view(df, columns=("method", "top1"), over_seeds=True, baseline=("simclr",)).frame.set_index("method")
    scores = df.pivot(index="seed", columns="method", values="top1")
    test = scipy.stats.ttest_rel(scores["mdssl"], scores["simclr"])
    mean, low, high = shown.loc["mdssl", [f"top1_vs_simclr_{name}" for name in ("mean", "low", "high")]]
    assert mean == pytest.approx((scores["mdssl"] - scores["simclr"]).mean())
    assert (low, high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert shown.loc["mdssl", "top1_vs_simclr_p"] == pytest.approx(test.pvalue)
    assert shown.loc["mdssl", "top1_vs_simclr_pairs"] == 5
    assert shown.loc["mdssl", "top1_sd"] == pytest.approx(np.std(scores["mdssl"], ddof=1))


def test_notes_list_trials_left_out_of_the_pairs_with_the_reason():
    simclr = [SIMCLR | {"seed": seed, "temperature": 0.1} for seed in range(4)]
    others = [own | {"seed": seed, "temperature": 0.1} for seed in range(5) for own in (MDSSL[0], UNTRAINED)]
    # Seed 0 has two baselines, so the untrained encoder of seed 0 has none.
    df = board([*simclr, *others, SIMCLR | {"seed": 0, "temperature": 0.5}])
    df = df[~((df["method"] == "simclr") & (df["seed"] == 3) & (df["eval_dataset"] == "svhn"))]
    found = view(df, where=[Condition("method", "!=", ("simclr",))], over_seeds=True, baseline=("simclr",))
    pairs = found.frame.set_index("method")
    assert pairs["svhn_vs_simclr_pairs"].to_dict() == {"mdssl": 3, "random": 2}
    assert pairs["cifar10_vs_simclr_pairs"].to_dict() == {"mdssl": 4, "random": 3}
    # If the table shows only one of the two baselines, the encoder is compared with that one.
    one_shown = view(df, where=[Condition("temperature", "!=", ("0.5",))], over_seeds=True, baseline=("simclr",))
    pairs = one_shown.frame.set_index("method")["cifar10_vs_simclr_pairs"]
    assert pairs.to_dict() == {"simclr": 0, "mdssl": 4, "random": 4}
    assert not any("several baselines" in note for note in one_shown.notes)
    of = df.drop_duplicates("trial_id").set_index(["method", "seed"])["trial_id"]
    mdssl, random = ([f"{name} seed {seed} ({of[name, seed]})" for seed in range(5)] for name in ("mdssl", "random"))
    assert {note for note in found.notes if "left out of the pairs" in note} == {
        f"2 trials left out of the pairs, because no baseline has the same seed and settings: {mdssl[4]}, {random[4]}",
        f"1 trial left out of the pairs, because several baselines have the same seed and settings: {random[0]}",
        f"2 trials left out of the pairs, because the baseline has no score on svhn: {mdssl[3]}, {random[3]}",
    }
    complete = view(df[df["seed"].between(1, 2)], over_seeds=True, baseline=("simclr",))
    assert not any("left out" in note for note in complete.notes)


def test_p_values_match_holms_procedure():
    rng = np.random.default_rng(0)
    seeds, means = 5, np.linspace(0, 2, 12)
    draws = pd.DataFrame({"row": np.repeat(range(12), seeds), "top1": rng.normal(np.repeat(means, seeds), 1)})
    draws.loc[draws["row"] == 3, "top1"] = 0.0
    found = p_values(over_seeds(draws, ["row"]))
    assert found.index[found.isna()].tolist() == [3]
    alone = {row: scipy.stats.ttest_1samp(own["top1"], 0).pvalue for row, own in draws.groupby("row") if row != 3}
    for level in (0.01, 0.05, 0.2, 0.5):
        rejected = set()
        for one in sorted(alone, key=alone.get):
            if alone[one] > level / (len(alone) - len(rejected)):
                break
            rejected.add(one)
        assert set(found.index[found <= level]) == rejected
    assert 0 < len(rejected) < len(alone)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            ["mdssl"],
            "differ in lambda1: 0.9, 1; lambda2: 0, 0.1. Select one of them: --baseline mdssl lambda1=1 lambda2",
        ),
        (["simcrl"], "unknown baseline 'simcrl'. Did you mean 'simclr'\\? Allowed: mdssl, simclr"),
        (["abc"], "'abc' is not a trial id"),
        (["ffffffffffff"], "is not a trial with a score"),
        (["method=mdssl", "lambda1=0.7"], "no row has lambda1 '0.7'"),
        (["simclr", "lambda2=0.1"], "'simclr lambda2=0.1': no trial with a score meets method=simclr and lambda2=0.1"),
        (["method=simclr", "method=mdssl"], "no trial with a score meets method=simclr and method=mdssl"),
    ],
)
def test_invalid_or_ambiguous_baselines_are_refused(wanted, message):
    df = board(GRID)
    with pytest.raises(ValueError, match=message):
        differences(df, df, wanted)


def test_all_methods_with_several_baselines_are_named():
    others = [{"method": name, "temperature": None} for name in ("mdssl-robust", "mdssl", "mdssl-clustered")]
    df = board([*(SIMCLR | {"temperature": value} for value in (0.1, 0.5)), *others, MDSSL[0] | {"temperature": 0.1}])
    with pytest.raises(ValueError, match="--where method!=mdssl,mdssl-clustered,mdssl-robust$"):
        differences(df, df, ["simclr"])


def test_only_baselines_that_lack_a_score_of_a_compared_trial_are_incomplete():
    scores = pd.DataFrame({"svhn": [1.0, 2.0, 3.0, 4.0], "dtd": [1.0, np.nan, np.nan, np.nan]}, index=list("abcd"))
    assert list(incomplete_baselines({"a": "b", "c": "d", "b": "b"}, scores)) == ["b"]
    assert list(incomplete_baselines({"b": "a", "c": "d"}, scores)) == []
    assert list(incomplete_baselines({}, scores)) == list(incomplete_baselines({}, scores[[]])) == []
