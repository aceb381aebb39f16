"""The penalty that the lbfgs-path probe chooses, compared with scikit-learn at every penalty."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mdssl.config.probe import ProbeConfig
from mdssl.evaluate.classifier import Parts
from mdssl.evaluate.probe import PENALTIES, lbfgs_path_probe, lbfgs_probe, run_probes
from mdssl.evaluate.sgd import held_out


def features(seed: int, *, train: int = 300, test: int = 400, width: int = 120, classes: int = 4) -> Parts:
    """Few images with many features, of which three in forty depend on the class: a small penalty overfits."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=train + test)
    x = rng.normal(size=(train + test, width))
    x[:, :9] += rng.normal(size=(classes, 9))[y]
    x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    return Parts(x[:train], y[:train], x[train:], y[train:], classes)


def sklearn_fit(x: torch.Tensor, y: torch.Tensor, l2: float):
    shift, scale = x.double().mean(dim=0), x.double().std(dim=0, correction=0)
    model = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-10, max_iter=5000)
    model.fit(((x.double() - shift) / scale).numpy(), y.numpy())
    return lambda rows: model.predict(((rows.double() - shift) / scale).numpy())


def test_the_chosen_penalty_and_its_predictions_match_scikit_learn():
    parts = features(0)
    result = lbfgs_path_probe(parts, seed=3)
    held = held_out(parts.train_y, 3)
    x, y = parts.train_x, parts.train_y
    accuracies = [
        100 * float((sklearn_fit(x[~held], y[~held], l2)(x[held]) == y[held].numpy()).mean()) for l2 in PENALTIES
    ]
    assert len(set(accuracies)) > 2, "accuracies must differ between penalties"
    assert result.found == {
        "chosen_l2": PENALTIES[int(np.argmax(accuracies))],
        "held_out_images": int(held.sum()),
        "held_out_top1": pytest.approx(max(accuracies)),
    }
    predicted = sklearn_fit(x, y, result.found["chosen_l2"])(parts.test_x)
    assert (predicted == result.predictions.numpy()).mean() >= 0.995


def test_penalties_are_evenly_spaced():
    assert np.divide(PENALTIES[:-1], PENALTIES[1:]) == pytest.approx(10**0.5, rel=0.06)


def test_the_chosen_penalty_is_more_accurate_on_few_images_and_many_features():
    gains = [lbfgs_path_probe(features(seed), seed=0).top1 - lbfgs_probe(features(seed)).top1 for seed in range(5)]
    assert np.mean(gains) > 2 and min(gains) > -1


def test_test_labels_do_not_affect_the_chosen_penalty():
    parts = features(1)
    swapped = parts._replace(test_y=parts.test_y.roll(1))
    one, other = lbfgs_path_probe(parts, seed=0), lbfgs_path_probe(swapped, seed=0)
    assert one.found == other.found
    assert torch.equal(one.classifier.weight, other.classifier.weight)


def test_the_default_penalty_is_used_if_no_images_can_be_held_out():
    parts = features(2)
    few = parts._replace(train_x=parts.train_x[:8], train_y=torch.arange(8) % 4)
    result = lbfgs_path_probe(few, seed=0)
    assert result.found == {"chosen_l2": ProbeConfig.probe_l2, "held_out_images": 0}
    assert torch.equal(result.predictions, lbfgs_probe(few).predictions)


def test_lbfgs_path_is_configured_and_run_like_other_probes():
    config = ProbeConfig(probe="lbfgs-path")
    assert config.name == "lbfgs-path"
    assert config.settings() == {"probe": "lbfgs-path", "knn_neighbours": 20}
    parts = features(1)
    (one,), (other,) = run_probes(parts, config=config, seed=0), run_probes(parts, config=config, seed=3)
    assert set(one.found) == {"chosen_l2", "held_out_images", "held_out_top1"}
    assert one.found == lbfgs_path_probe(parts, seed=0).found != other.found == lbfgs_path_probe(parts, seed=3).found
    with pytest.raises(
        ValueError, match="probe_l2 is 0.5, which the lbfgs-path probe does not have; use --probe lbfgs"
    ):
        ProbeConfig(probe="lbfgs-path", probe_l2=0.5)
