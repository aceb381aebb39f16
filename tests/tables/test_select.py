import pandas as pd
import pytest
from factories import failed, row, stopped

from mdssl.tables.select import best_by_validation, matching, parse_condition

ROWS = pd.DataFrame(
    {
        "method": ["simclr", "mdssl", "mdssl", "random"],
        "lambda1": [1.0, 1.0, 0.9, None],
        "seed": pd.array([0, 1, 0, 0], "Int64"),
        "seen": pd.array([True, False, None, False], "boolean"),
        "top1": [50.0, 40.0, 60.5, None],
        "probe": ["sgd", "sgd(learning_rate=0.03,epochs=30)", "sgd", "sgd"],
        "started_at": pd.to_datetime(["2026-11-02T10:00", "2026-11-03T00:00", None, "2026-11-04T00:00"], utc=True),
        "error": [None, None, None, "out of memory, twice"],
        "normalised": [None, True, False, None],
    }
)


def found(*texts: str) -> list[int]:
    return list(matching(ROWS, [parse_condition(text) for text in texts]).index)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["lambda1=1"], [0, 1]),
        (["lambda1=0.9,1.0"], [0, 1, 2]),
        (["lambda1=null"], [3]),
        (["lambda1=0.9,null"], [2, 3]),
        (["lambda1!=1"], [2, 3]),
        (["lambda1!=null"], [0, 1, 2]),
        (["lambda1!=1,null"], [2]),
        (["top1>40"], [0, 2]),
        (["top1 >= 40"], [0, 1, 2]),
        (["top1<60.5"], [0, 1]),
        (["top1<=60.5", "seed!=1"], [0, 2]),
        (["method=mdssl", "seed=0"], [2]),
        (["method=mdssl,random"], [1, 2, 3]),
        (["seen=true"], [0]),
        (["seen=False"], [1, 3]),
        (["seen!=true"], [1, 2, 3]),
        (["normalised=false"], [2]),
        (["probe=sgd(learning_rate=0.03,epochs=30)"], [1]),
        (["probe=sgd,sgd(learning_rate=0.03,epochs=30)"], [0, 1, 2, 3]),
        (["started_at>2026-11-02T12:00"], [1, 3]),
        (["error!=null"], [3]),
        ([], [0, 1, 2, 3]),
    ],
)
def test_only_rows_that_meet_all_conditions_are_kept(texts, expected):
    assert found(*texts) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top1", "'top1' is not a valid condition. Write NAME=VALUE"),
        ("=3", "is not a valid condition"),
        ("top1>", "is not a valid condition"),
        ("lamda1=1", "unknown leaderboard column 'lamda1'.*Did you mean 'lambda1'"),
        ("method=mdsl", "no row has method 'mdsl'. Did you mean 'mdssl'. There are: mdssl, random, simclr."),
        ("lambda1=0.8", "no row has lambda1 '0.8'; there are: 0.9, 1"),
        ("lambda1=high", "compares lambda1 with 'high'; it must be a number, or null"),
        ("seen=maybe", "it must be true or false"),
        ("started_at>noon-ish", "it must be a time such as"),
        ("method>mdssl", "method has none; use = or !="),
        ("seen>false", "seen has none"),
    ],
)
def test_invalid_conditions_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        found(text)


def test_empty_values_are_not_listed():
    rows = pd.DataFrame({"train_mixture": ["", "svhn"]})
    with pytest.raises(ValueError, match="no row has train_mixture 'dtd'; there are: svhn.$"):
        matching(rows, [parse_condition("train_mixture=dtd")])


def test_long_lists_of_existing_values_are_shortened():
    rows = pd.DataFrame({"trial_id": [f"{number:012x}" for number in range(1000)]})
    with pytest.raises(ValueError, match="and 988 more") as refused:
        matching(rows, [parse_condition("trial_id=123")])
    assert len(str(refused.value)) < 400


def trial(number: int, scores: dict[str, tuple[float, float | None]], **changes) -> list[dict]:
    """The rows of a trial: test and validation top-1 by dataset."""
    same = {"trial_id": f"{number:012x}", "eval_fingerprint": "1", "finished_at": "2026-11-02"} | changes
    return [row(name, top1=top1, val_top1=val, **same) for name, (top1, val) in scores.items()]


def test_trials_are_ranked_by_validation_score_regardless_of_test_scores():
    rows = [
        *trial(1, {"svhn": (90.0, 50.0), "stl10": (90.0, 40.0)}),
        *trial(2, {"svhn": (10.0, 60.0), "stl10": (10.0, 44.0)}),
        *trial(3, {"svhn": (99.0, None), "stl10": (99.0, 99.0)}),
        stopped("svhn", trial_id=f"{4:012x}", val_linear_top1=99.0),
        failed(trial_id=f"{5:012x}"),
    ]
    found = best_by_validation(pd.DataFrame(rows))
    assert found["trial_id"].tolist() == [f"{number:012x}" for number in (2, 1, 3, 4, 5)]
    assert found["val"].tolist()[:2] == [52.0, 45.0] and found["val"].isna().tolist() == [False] * 2 + [True] * 3
    assert found["status"].tolist() == ["finished"] * 3 + ["stopped", "failed"]
    # Test scores do not change the ranking.
    shuffled = pd.DataFrame(rows).assign(top1=lambda df: 100 - df["top1"])
    pd.testing.assert_frame_equal(best_by_validation(shuffled), found)


def test_without_validation_scores_no_trial_is_the_best():
    rows = pd.DataFrame([*trial(1, {"svhn": (90.0, None)}), *trial(2, {"svhn": (80.0, None)})])
    for lacking in (rows, rows.drop(columns="val_top1")):
        assert best_by_validation(lacking)["val"].isna().all()
        assert best_by_validation(lacking)["trial_id"].tolist() == [f"{1:012x}", f"{2:012x}"]


def test_validation_scores_of_earlier_images_and_other_layers_are_ignored():
    rows = [
        *trial(1, {"svhn": (1.0, 99.0)}, finished_at="2026-11-01", eval_fingerprint="0"),
        *trial(2, {"svhn": (1.0, 50.0)}),
        *trial(3, {"svhn": (1.0, 40.0)}),
        *trial(3, {"svhn": (1.0, 98.0)}, features="projection"),
    ]
    found = best_by_validation(pd.DataFrame(rows)).set_index("trial_id")["val"]
    assert found.iloc[:2].to_dict() == {f"{2:012x}": 50.0, f"{3:012x}": 40.0} and found.isna().sum() == 1


def test_validation_scores_of_two_probes_are_refused():
    rows = [*trial(1, {"svhn": (1.0, 50.0)}), *trial(2, {"svhn": (1.0, 50.0)}, probe="sgd")]
    with pytest.raises(ValueError, match="validation scores are of several probes: lbfgs, sgd"):
        best_by_validation(pd.DataFrame(rows))
