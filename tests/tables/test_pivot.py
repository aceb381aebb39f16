"""Tables of scores by setting: means over seeds only, and refused averages."""

import json

import numpy as np
import pandas as pd
import pytest
from factories import UNTRAINED, failed, row

from mdssl.leaderboard.board import read, with_settings, write_rows
from mdssl.tables.compare import pivot

A, B, C = "a" * 12, "b" * 12, "c" * 12


def test_pivot_is_the_mean_over_seeds_and_keeps_null_settings(storage):
    for trial_id, seed, lambda1, score in ((A, 0, 0.9, 60.0), (B, 1, 0.9, 64.0), (C, 0, 1.0, 50.0)):
        same = {"seed": seed, "lambda1": lambda1}
        write_rows(storage, trial_id, [row("svhn", top1=score, **same), row("stl10", top1=score + 10, **same)])
    write_rows(storage, "d" * 12, [row(name, top1=20.0, **UNTRAINED) for name in ("svhn", "stl10")])
    write_rows(storage, "e" * 12, [failed(lambda1=0.8)])
    table = pivot(read(storage))
    assert list(table.columns) == ["stl10", "svhn"]
    expected = {
        ("mdssl", 0.9, 0.1): [72.0, 62.0],
        ("mdssl", 1.0, 0.1): [60.0, 50.0],
        ("random", None, None): [20.0, 20.0],
    }
    found = {tuple(None if pd.isna(key) else key for key in keys): list(values) for keys, values in table.T.items()}
    assert found == expected


def test_pivot_agrees_with_pandas_where_nothing_is_null(storage):
    rng = np.random.default_rng(0)
    for number in range(12):
        setting = {"lambda1": [0.9, 1.0][number % 2], "lambda2": [0.0, 0.1, 0.2][number % 3], "seed": number // 6}
        scores = rng.uniform(0, 100, 2)
        names = ("svhn", "stl10")
        rows = [row(name, knn_top1=score, **setting) for name, score in zip(names, scores, strict=True)]
        write_rows(storage, f"{number:012x}", rows)
    df = read(storage)
    expected = df.pivot_table(index=["lambda1", "lambda2"], columns="eval_dataset", values="knn_top1")
    pd.testing.assert_frame_equal(pivot(df, index=["lambda1", "lambda2"], values="knn_top1"), expected)


def test_pivot_refuses_to_average_rows_that_differ_in_more_than_the_seed(storage):
    write_rows(storage, A, [row("svhn"), row("svhn", features="projection", top1=10.0)])
    df = read(storage)
    with pytest.raises(
        ValueError, match=r"would mix rows that differ in features: encoder, projection.*add 'features' to index"
    ):
        pivot(df)
    assert pivot(df, index=["features"])["svhn"].to_dict() == {"encoder": 50.0, "projection": 10.0}
    assert pivot(read(storage, features="encoder")).to_numpy() == [[50.0]]


def test_pivot_refuses_to_average_over_a_setting_of_config_json(storage):
    for trial_id, weight_decay in ((A, 1e-6), (B, 1e-4)):
        said = {"trial": {"method": "mdssl", "lambda1": 0.9, "weight_decay": weight_decay}}
        write_rows(storage, trial_id, [row("svhn", top1=weight_decay, config_json=json.dumps(said))])
    df = read(storage)
    with pytest.raises(ValueError, match=r"differ in weight_decay: 1e-06, 0.0001\..*df = with_settings\(df\)"):
        pivot(df)
    df = with_settings(df)
    assert pivot(df, index=["weight_decay"])["svhn"].to_dict() == {1e-6: 1e-6, 1e-4: 1e-4}
    assert pivot(df[df.weight_decay == 1e-4]).to_numpy() == [[1e-4]]


def test_pivot_ignores_training_settings_of_untrained_encoders(storage):
    initial = {"method": "random", "arch": "resnet18", "stem": "imagenet", "norm": "batch", "projection_dim": 128}
    for trial_id, seed, decay in ((A, 0, 1e-6), (B, 1, 1e-4)):
        said = {"trial": initial | {"seed": seed, "weight_decay": decay}}
        write_rows(storage, trial_id, [row("svhn", **UNTRAINED | {"seed": seed}, config_json=json.dumps(said))])
    assert pivot(read(storage)).to_numpy() == [[50.0]]


def test_pivot_refuses_to_mix_scores_on_different_images_of_a_dataset(storage):
    for trial_id, images in ((A, "1" * 64), (B, "2" * 64)):
        said = json.dumps({"evaluation": {"data_fingerprint": images}})
        write_rows(storage, trial_id, [row("svhn", config_json=said)])
    with pytest.raises(ValueError, match=r"differ in eval_fingerprint"):
        pivot(read(storage))


def test_pivot_of_no_rows_is_empty_and_unknown_columns_are_refused(storage):
    assert pivot(read(storage)).empty
    with pytest.raises(ValueError, match=r"unknown leaderboard column 'top_1'.*Did you mean 'top1'"):
        pivot(read(storage), values="top_1")
