import io
import json

import numpy as np
import pandas as pd
import pytest
from factories import UNTRAINED, failed, row
from rich.console import Console
from small_board import DATASETS, SIMCLR, printed, table, trial

from mdssl.config.trial import TrialConfig
from mdssl.leaderboard.board import read, with_settings, write_rows
from mdssl.tables.baseline import find_baselines
from mdssl.tables.printing import print_leaderboard
from mdssl.tables.sweep_table import sweep_table


def test_precision_auto_is_not_a_separate_setting(swept):
    trial(swept, 7, (70, 60, 50, 40), lambda1=0.8, precision="bf16")
    write_rows(swept, "0" * 11 + "8", [failed(lambda1=0.5, precision="auto")])
    assert "precision" not in table(swept)
    trial(swept, 9, (70, 60, 50, 40), lambda1=0.7, precision="fp32")
    assert {"fp32", "bf16"} <= set(table(swept)["precision"])


def test_the_table_has_a_row_per_trial_with_averages_and_difference_to_baseline(swept):
    df = table(swept)
    columns = ["method", "lambda1", "lambda2", *DATASETS, "seen", "unseen", "vs simclr", "val", "status", "error"]
    assert list(df.columns) == columns
    nan, failure = None, "ValueError: the loss is nan at step 3"
    expected = [
        ("random", nan, nan, 30, 20, 25, 35, 25, 30, 27.5 - 53, nan, "finished", nan),
        ("simclr", 1.0, 0.0, 66, 60, 44, 42, 63, 43, nan, nan, "finished", nan),
        ("mdssl", 1.0, 0.0, 64, 56, 48, 40, 60, 44, 52 - 53, nan, "finished", nan),
        ("mdssl", 0.95, 0.1, nan, nan, nan, nan, nan, nan, nan, nan, "failed", failure),
        ("mdssl", 0.9, 0.0, 61, 62, 63, 64, 61.5, 63.5, 62.5 - 53, nan, "finished", nan),
        ("mdssl", 0.9, 0.1, 70, 60, 50, 40, 65, 45, 55 - 53, nan, "finished", nan),
    ]
    found = [tuple(None if pd.isna(value) else value for value in values) for values in df.itertuples(index=False)]
    assert found == expected
    assert [int(trial_id, 16) for trial_id in df.index] == [5, 4, 3, 6, 2, 1]


def test_averages_are_over_datasets_common_to_the_trials(storage):
    trial(storage, 1, (66, 60, None, 42), **SIMCLR)
    trial(storage, 2, (70, 60, 50, 40))
    df = table(storage)
    assert df["unseen"].tolist() == [42, 40]
    assert df["vs simclr"].tolist() == pytest.approx([np.nan, (4 + 0 - 2) / 3], nan_ok=True)
    assert df.attrs["notes"] == [
        "averages are over cifar10, svhn, eurosat; left out, because a baseline or most trials lack a score: stl10"
    ]
    assert df.attrs["notes"][0] in " ".join(printed(df).split())


def test_averages_ignore_datasets_that_few_trials_have(storage):
    for number, lambda2 in enumerate((0.0, 0.1, 0.2)):
        trial(storage, number, (60 + number, 50, None, 40), lambda1=0.9, lambda2=lambda2)
    trial(storage, 3, (66, 50, None, 42), **SIMCLR)
    before = table(storage)
    # One trial has a score on an additional dataset, and one trial has a high score on a single dataset.
    trial(storage, 2, (62, 50, 99, 40), lambda1=0.9, lambda2=0.2)
    trial(storage, 4, (99, None, None, None), lambda1=1.0, lambda2=0.3)
    after = table(storage)
    averages = ["seen", "unseen", "vs simclr"]
    pd.testing.assert_frame_equal(after.loc[before.index, averages], before[averages])
    # The trial has no score on svhn, which is in its training mixture.
    assert after.loc[f"{4:012x}", averages].isna().all()


def test_averages_ignore_datasets_of_other_probes_and_untrained_encoders(storage):
    trial(storage, 1, (66, 60, 44, None), **SIMCLR)
    rows = [row(name, top1=top1) for name, top1 in zip(DATASETS, (70, 60, 50, 0), strict=True) if top1]
    write_rows(storage, f"{2:012x}", [*rows, row("eurosat", top1=90, probe="sgd")])
    trial(storage, 3, (None, None, None, 30), **UNTRAINED)
    out = io.StringIO()
    print_leaderboard(storage, console=Console(file=out, width=200))
    lbfgs = out.getvalue().split("sgd probe")[0]
    assert "65.0" in lbfgs and "+3.3" in lbfgs


def test_trials_are_compared_with_the_baseline_of_their_own_seed_and_temperature(storage):
    baselines = {(0, 0.1): 10.0, (1, 0.1): 20.0, (0, 0.5): 30.0, (1, 0.5): 50.0}
    for number, ((seed, temperature), score) in enumerate(baselines.items()):
        trial(storage, number, (score,) * 4, seed=seed, temperature=temperature, **SIMCLR)
        trial(storage, 10 + number, (60,) * 4, seed=seed, temperature=temperature)
    for seed in (0, 1):
        trial(storage, 20 + seed, (5,) * 4, **UNTRAINED | {"seed": seed})
    df = table(storage)
    assert list(df.columns[:5]) == ["method", "lambda1", "lambda2", "temperature", "seed"]
    trained = df[df["method"] == "mdssl"]
    assert trained["vs simclr"].tolist() == [50, 40, 30, 10]
    assert trained[["temperature", "seed"]].to_numpy().tolist() == [[0.1, 0], [0.1, 1], [0.5, 0], [0.5, 1]]
    # An untrained encoder has no temperature, so neither of the two baselines of its seed matches.
    assert df[df["method"] == "random"]["vs simclr"].isna().all()
    rows = read(storage)
    one = sweep_table(rows[rows["temperature"] != 0.5], mixtures=["cifar10+svhn"], datasets=DATASETS)
    assert one[one["method"] == "random"]["vs simclr"].tolist() == [5 - 10, 5 - 20]


def test_trials_are_compared_with_the_baseline_of_their_own_hidden_settings(storage):
    for number, (decay, score) in enumerate({1e-6: 10.0, 1e-4: 20.0}.items()):
        said = json.dumps({"trial": {"weight_decay": decay}})
        trial(storage, number, (score,) * 4, config_json=said, **SIMCLR)
        trial(storage, 10 + number, (60,) * 4, config_json=said)
    df = table(storage)
    assert df[df["method"] == "mdssl"]["vs simclr"].to_dict() == {f"{10:012x}": 50, f"{11:012x}": 40}
    assert df["weight_decay"].tolist() == [1e-6, 1e-4, 1e-6, 1e-4]


def test_scores_on_earlier_images_of_a_dataset_are_left_out(storage):
    for number, (images, day) in enumerate((("1" * 64, 1), ("2" * 64, 2))):
        said = json.dumps({"evaluation": {"data_fingerprint": images}})
        at = f"2026-11-0{day}T10:00:00+00:00"
        trial(storage, number, (40 + number,) * 4, config_json=said, finished_at=at, lambda2=number / 10)
    assert table(storage)["cifar10"].fillna(-1).tolist() == [-1, 41]


def test_settings_of_clustered_methods_are_not_compared_with_the_baseline(storage):
    trial(storage, 1, (40,) * 4, **SIMCLR)
    for number in (2, 3):
        trial(storage, number, (40 + number,) * 4, method="mdssl-clustered", num_clusters=number)
    df = table(storage)
    assert df["num_clusters"].isna().tolist() == [True, False, False]
    assert df["vs simclr"].tolist()[1:] == [2, 3]


def test_constant_settings_have_no_column(swept):
    assert "seed" not in table(swept).columns
    # The untrained encoder has 0 iterations and all other trials have 150. This difference alone gives no column.
    assert "iterations" not in table(swept).columns


def test_a_failed_baseline_gives_no_difference(storage):
    trial(storage, 1, (40,) * 4)
    write_rows(storage, "f" * 12, [failed(**SIMCLR)])
    assert table(storage)["vs simclr"].isna().all()


def test_the_table_shows_scores_of_one_probe_and_layer(storage):
    rows = [row(name, top1=50.0) for name in DATASETS]
    rows += [row(name, top1=40.0, features="projection") for name in DATASETS]
    rows += [row(name, top1=45.0, probe="sgd-raw") for name in DATASETS[:3]]
    write_rows(storage, "1" * 12, rows)
    assert table(storage)[list(DATASETS)].to_numpy().tolist() == [[50.0] * 4]
    assert table(storage, features="projection")["seen"].tolist() == [40.0]
    sgd = table(storage, probe="sgd-raw")
    assert sgd["seen"].tolist() == [45.0]
    assert sgd["eurosat"].isna().all()


def test_trials_of_other_mixtures_are_left_out(swept):
    trial(swept, 9, (99,) * 4, train_mixture="cifar10+stl10")
    assert f"{9:012x}" not in table(swept).index
    assert list(table(swept, mixtures=["cifar10+stl10"])["seen"]) == [27.5, 99]


def test_each_mixture_in_a_table_has_its_own_seen_datasets_and_baseline(swept):
    trial(swept, 8, (50, 40, 60, 30), train_mixture="cifar10+stl10", **SIMCLR)
    trial(swept, 9, (60, 50, 70, 40), train_mixture="cifar10+stl10")
    df = table(swept, mixtures=["cifar10+stl10", "cifar10+svhn"])
    assert list(df.columns[:4]) == ["method", "train_mixture", "lambda1", "lambda2"]
    assert [int(trial_id, 16) for trial_id in df.index] == [5, 8, 9, 4, 3, 6, 2, 1]
    assert df.loc[f"{9:012x}", ["seen", "unseen", "vs simclr"]].tolist() == [65, 45, 10]
    assert df.loc[f"{4:012x}", ["seen", "unseen"]].tolist() == [63, 43]
    assert df.loc[[f"{4:012x}", f"{8:012x}"], "vs simclr"].isna().all()
    assert df.loc[f"{5:012x}", ["seen", "unseen"]].isna().tolist() == [True, False], (
        "untrained encoders have no seen datasets"
    )
    assert "data_fingerprint" not in df.columns
    assert "cifar10+" in printed(df)


def test_a_failed_score_marks_its_trial_and_keeps_the_other_scores(storage):
    broken = failed("ValueError: features are not finite") | {"eval_dataset": "eurosat"}
    write_rows(storage, "1" * 12, [*(row(name) for name in DATASETS[:3]), broken])
    (found,) = table(storage).to_dict("records")
    assert (found["seen"], found["unseen"], found["status"]) == (50.0, 50.0, "failed")
    assert "left out, because a baseline or most trials lack a score: eurosat" in table(storage).attrs["notes"][0]
    assert found["error"] == "ValueError: features are not finite"


def test_no_rows_give_an_empty_table_that_can_be_printed(storage):
    df = table(storage)
    assert df.empty
    assert printed(df) == "no rows to show\n"


def test_the_table_is_readable_in_80_columns_without_a_terminal(swept):
    first, second = printed(table(swept)).split("\n\n")
    assert first == (
        "                                                                        vs\n"
        "trial_id     method   λ1  λ2 cifar10 svhn stl10 eurosat seen unseen simclr\n"
        "──────────────────────────────────────────────────────────────────────────\n"
        "000000000005 random    -   -    30.0 20.0  25.0    35.0 25.0   30.0  -25.5\n"
        "000000000004 simclr    1   0    66.0 60.0  44.0    42.0 63.0   43.0      -\n"
        "000000000003 mdssl     1   0    64.0 56.0  48.0    40.0 60.0   44.0   -1.0\n"
        "000000000006 mdssl  0.95 0.1       -    -     -       -    -      -      -\n"
        "000000000002 mdssl   0.9   0    61.0 62.0  63.0    64.0 61.5   63.5   +9.5\n"
        "000000000001 mdssl   0.9 0.1    70.0 60.0  50.0    40.0 65.0   45.0   +2.0"
    )
    assert second.splitlines()[0] == "trial_id     method   λ1  λ2 status"
    assert "000000000006 mdssl  0.95 0.1 failed\n" in second
    assert second.splitlines()[-1] == (
        "failed: 000000000006 mdssl λ1=0.95 λ2=0.1: ValueError: the loss is nan at step 3"
    )


def test_the_best_of_each_column_is_bold(swept):
    lines = printed(table(swept), force_terminal=True, color_system="standard").split("\n\n")[0].splitlines()
    bold = [[part.split("\x1b[0m")[0].strip() for part in line.split("\x1b[1m")[1:]] for line in lines[3:]]
    assert bold == [[], [], [], [], ["62.0", "63.0", "64.0", "63.5", "+9.5"], ["70.0", "65.0"]]


def test_tied_best_scores_are_all_bold(storage):
    trial(storage, 1, (50.04,) * 4, **SIMCLR)
    trial(storage, 2, (50.01,) * 4)
    text = printed(table(storage), force_terminal=True)
    assert text.count("50.0\x1b[0m") == 2 * 6


def test_numbers_are_not_truncated_in_a_table_wider_than_the_console(swept):
    df = table(swept)
    wide = df.assign(**{f"dataset-{letter}": 12.3 for letter in "abcdefghij"})
    front = [name for name in wide.columns if name not in ("seen", "unseen", "vs simclr", "status", "error")]
    text = printed(wide[[*front, "seen", "unseen", "vs simclr", "status", "error"]])
    assert text.count("12.3") == 10 * len(df)
    assert "…" not in text


def test_empty_columns_are_not_printed(storage):
    trial(storage, 1, (50, 40, None, None))
    text = printed(table(storage, datasets=("cifar10", "svhn")))
    assert "unseen" not in text
    assert "simclr" not in text
    assert "status" not in text
    assert "45.0" in text


def test_errors_are_printed_without_interpreting_markup(storage):
    write_rows(storage, "1" * 12, [failed("ValueError: [bold]not markup[/bold] [/]")])
    assert "ValueError: [bold]not markup[/bold] [/]\n" in printed(table(storage))


def made_of(**trial) -> dict:
    """``config_json`` of a trial with these settings."""
    config = {"method": "mdssl", "domains": ["cifar10", "svhn"]} | trial
    return {"config_json": json.dumps({"trial": TrialConfig(**config).to_dict()})}


def test_trials_are_compared_with_pretrained_weights_of_the_same_patch_size(storage):
    vit = {"arch": "timm/test_vit", "input_size": 32, "normalization": "0 0 0 1 1 1"}
    for number, patch in enumerate((4, 8)):
        own = vit | {"patch_size": patch}
        weights = made_of(method="pretrained", domains=(), weights="a.pth", weights_fingerprint="a", **own)
        trial(storage, number, (50, 50, 50, 50), **UNTRAINED | {"method": "pretrained"}, **weights)
        trial(storage, 10 + number, (51 + patch,) * 4, **made_of(init="a.pth", init_fingerprint="a", **own))
    assert table(storage)["vs pretrained"].dropna().to_list() == [5, 9]


def test_trials_are_compared_with_the_weights_from_which_they_start(storage):
    """The path of the weights does not matter. A trial that starts from random weights has no such baseline."""
    for number, (weights, scores) in enumerate({"a": (50, 60, 20, 20), "b": (10, 20, 20, 30)}.items()):
        own = made_of(method="pretrained", domains=(), weights=f"gone://a/{weights}.pth", weights_fingerprint=weights)
        trial(storage, number, scores, **UNTRAINED | {"method": "pretrained"}, **own)
        for scale, gain in ((1.0, 3), (0.1, 5)):
            own = made_of(init=f"copy-of-{weights}.pth", init_fingerprint=weights, encoder_lr_scale=scale)
            better = tuple(score + gain for score in scores)
            trial(storage, 10 + 10 * number + gain, better, **own)
    trial(storage, 99, (90, 90, 90, 90), **made_of())
    df = table(storage).set_index(["method", "init", "encoder_lr_scale"])
    assert df["vs pretrained"].dropna().to_dict() == {
        ("mdssl", f"copy-of-{weights}.pth", scale): gain for weights in "ab" for scale, gain in ((1.0, 3), (0.1, 5))
    }
    assert "init_fingerprint" not in df and "normalization" not in df
    # SimCLR is the baseline of trials that start from the same weights.
    for number, init in enumerate(("random", "copy-of-a.pth")):
        start = {} if init == "random" else {"init": init, "init_fingerprint": "a"}
        trial(storage, 30 + number, (1, 1, 1, 1), **SIMCLR, **made_of(method="simclr", **start))
    rows = with_settings(read(storage))
    pairs = {int(trial_id, 16): int(other, 16) for trial_id, other in find_baselines(rows, rows).items()}
    # The weights "a" match both SimCLR trials, so they have no baseline.
    assert pairs == {30: 30, 99: 30, 1: 30, 31: 31, 13: 31}
