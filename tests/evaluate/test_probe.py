from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from mdssl.config import probe as probe_settings
from mdssl.config.field_types import choices
from mdssl.evaluate import probe, sgd
from mdssl.evaluate.classifier import Parts, standardization
from mdssl.evaluate.probe import PROBES

FAST_SGD = probe_settings.ProbeConfig(probe="sgd", probe_epochs=5)
RAW_SGD = probe_settings.ProbeConfig(probe="sgd-raw", probe_epochs=5, probe_learning_rate=(0.001,), probe_batch=256)
LBFGS = probe_settings.ProbeConfig(probe="lbfgs")
BOTH = pytest.mark.parametrize("settings", [FAST_SGD, RAW_SGD, LBFGS], ids=lambda settings: settings.probe)


def run_probe(*parts, **settings):
    """The result of a probe with one learning rate."""
    (result,) = probe.run_probes(Parts(*parts), **settings)
    return result


def lbfgs_probe(*parts, **settings):
    return probe.lbfgs_probe(Parts(*parts), **settings)


def test_standardization_matches_scikit_learn(digits):
    train_x = torch.cat([digits[0] * 1000, torch.full((len(digits[0]), 1), 7.0)], dim=1)
    theirs = StandardScaler().fit(train_x.double().numpy())
    assert (theirs.var_ == 0).any()
    for ours, expected in zip(standardization(train_x), (theirs.mean_, theirs.scale_), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("l2", [1e-1, 1e-3, 1e-4])
def test_lbfgs_finds_the_same_optimum_as_scikit_learn(steep, l2, classes):
    train, test = steep[1] < classes, steep[3] < classes
    train_x, train_y, test_x, test_y = steep[0][train], steep[1][train], steep[2][test], steep[3][test]
    ours = lbfgs_probe(train_x, train_y, test_x, test_y, classes, l2=l2)
    scaler = StandardScaler().fit(train_x.double().numpy())
    standard = scaler.transform(train_x.double().numpy())
    # With two classes scikit-learn has one row of weights, w; mdssl has w/2 and -w/2, whose squares sum to half.
    strength = (2 if classes == 2 else 1) / (l2 * len(train_x))
    peer = LogisticRegression(C=strength, tol=1e-9, max_iter=20_000, solver="newton-cg")
    peer.fit(standard, train_y.numpy())
    weight, bias = (torch.from_numpy(part) for part in (peer.coef_, peer.intercept_))
    if classes == 2:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2

    def objective(weight: torch.Tensor, bias: torch.Tensor) -> float:
        logits = torch.from_numpy(standard) @ weight.T + bias
        return float(F.cross_entropy(logits, train_y) + l2 / 2 * weight.square().sum())

    assert objective(ours.classifier.weight, ours.classifier.bias) == pytest.approx(objective(weight, bias), rel=1e-6)
    assert (ours.predictions.numpy() == peer.predict(scaler.transform(test_x.double().numpy()))).all()


@pytest.mark.filterwarnings("error:the lbfgs probe stopped")
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("decay", [1.0, 2.0, 3.0])
def test_lbfgs_reaches_the_optimum_on_ill_conditioned_features(monkeypatch, decay, classes):
    """As for chest X-rays with two classes, most features are sums of a few; condition numbers are 1e2 to 1e7."""
    monkeypatch.setattr(probe, "LBFGS_MAX_ITERATIONS", 150)
    rng = np.random.default_rng(0)
    y = rng.integers(classes, size=1200)
    latent = rng.normal(size=(1200, 256)) + 0.6 * rng.normal(size=(classes, 256))[y]
    x = np.maximum((latent * np.arange(1, 257) ** -decay) @ rng.normal(size=(256, 256)) + 1, 0).astype(np.float32)
    ours = lbfgs_probe(*map(torch.from_numpy, (x[:700], y[:700], x[700:], y[700:])), classes)
    scaler = StandardScaler().fit(x[:700].astype(np.float64))
    train, test = (scaler.transform(part.astype(np.float64)) for part in (x[:700], x[700:]))
    strength = (2 if classes == 2 else 1) / (probe_settings.ProbeConfig.probe_l2 * 700)
    peer = LogisticRegression(C=strength, tol=1e-12, max_iter=20_000, solver="newton-cg").fit(train, y[:700])
    theirs = peer.decision_function(test)
    logits = ours.classifier.logits(torch.from_numpy(x[700:])).numpy()
    ours_alike = logits[:, 1] - logits[:, 0] if classes == 2 else logits - logits.mean(axis=1, keepdims=True)
    centered = theirs if classes == 2 else theirs - theirs.mean(axis=1, keepdims=True)
    # One image in 624 of chest X-ray is 0.16 points: no difference of logits may change a prediction.
    np.testing.assert_allclose(ours_alike, centered, atol=2e-3)
    assert (ours.predictions.numpy() == peer.predict(test)).all()


def test_lbfgs_leaves_out_classes_without_training_images(digits):
    train_x, train_y, test_x, test_y = digits
    some = train_y < 4
    result = lbfgs_probe(train_x[some], train_y[some], test_x, test_y, 10)
    alone = lbfgs_probe(train_x[some], train_y[some], test_x[test_y < 4], test_y[test_y < 4], 4)
    assert torch.equal(result.classifier.weight[:4], alone.classifier.weight)
    assert (result.classifier.bias[4:] == -torch.inf).all()


def test_lbfgs_does_not_depend_on_the_scale_of_features(digits):
    train_x, train_y, test_x, test_y = digits
    factor, offset = torch.logspace(-3, 3, 64), torch.linspace(-5, 5, 64)
    changed = lbfgs_probe(train_x * factor + offset * factor, train_y, test_x * factor + offset * factor, test_y, 10)
    same = (changed.predictions == lbfgs_probe(*digits, 10).predictions).float().mean()
    assert same > 0.99


def test_features_that_vary_only_by_rounding_are_ignored(digits):
    train_x, train_y, test_x, test_y = digits
    generator = torch.Generator().manual_seed(0)
    # Steps of one unit in the last place: scaled to unit variance, they would be 300 features of pure noise.
    rounded = [1000 + 6e-5 * torch.randint(2, (len(part), 300), generator=generator) for part in (train_x, test_x)]
    wider = [torch.cat([part, extra], 1) for part, extra in zip((train_x, test_x), rounded, strict=True)]
    same = lbfgs_probe(wider[0], train_y, wider[1], test_y, 10).predictions == lbfgs_probe(*digits, 10).predictions
    assert same.float().mean() > 0.99


def test_lbfgs_warns_if_it_does_not_converge(digits, monkeypatch):
    monkeypatch.setattr(probe, "LBFGS_MAX_ITERATIONS", 3)
    with pytest.warns(UserWarning, match="after 3 iterations.*raise probe_l2"):
        lbfgs_probe(*digits, 10)


@BOTH
def test_top1_and_top5_match_scikit_learn(digits, settings):
    test_x, test_y = digits[2:]
    result = run_probe(*digits, 10, config=settings)
    logits = result.classifier.logits(test_x).numpy()
    assert result.top1 == pytest.approx(100 * top_k_accuracy_score(test_y, logits, k=1))
    assert result.top5 == pytest.approx(100 * top_k_accuracy_score(test_y, logits, k=5))
    assert 80 < result.top1 < result.top5 < 100.01
    assert type(result.top1) is float
    assert type(result.top5) is float


@BOTH
def test_test_labels_affect_only_the_score(digits, settings):
    train_x, train_y, test_x, test_y = digits
    honest = run_probe(*digits, 10, config=settings)
    corrupted = run_probe(train_x, train_y, test_x, (test_y + 1) % 10, 10, config=settings)
    assert torch.equal(corrupted.classifier.weight, honest.classifier.weight)
    assert torch.equal(corrupted.classifier.bias, honest.classifier.bias)
    assert torch.equal(corrupted.predictions, honest.predictions)
    assert corrupted.top1 < 10 < honest.top1


@BOTH
def test_the_test_features_do_not_change_the_fit(digits, settings):
    train_x, train_y, test_x, test_y = digits
    other = run_probe(train_x, train_y, 3 * test_x[:7] + 100, test_y[:7], 10, config=settings)
    honest = run_probe(*digits, 10, config=settings)
    for part in ("weight", "bias", "shift", "scale"):
        assert torch.equal(getattr(other.classifier, part), getattr(honest.classifier, part))


@BOTH
def test_a_probe_is_deterministic_and_leaves_its_input_unchanged(digits, settings):
    before = [part.clone() for part in digits]
    first, again = (run_probe(*digits, 10, config=settings, seed=5) for _ in range(2))
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert all(torch.equal(part, kept) for part, kept in zip(digits, before, strict=True))


def test_the_seed_changes_sgd_and_not_lbfgs(digits):
    first, other = (run_probe(*digits, 10, config=FAST_SGD, seed=seed).classifier.weight for seed in (0, 1))
    lbfgs, other_lbfgs = (run_probe(*digits, 10, config=LBFGS, seed=seed).classifier.weight for seed in (0, 1))
    assert not torch.equal(first, other)
    assert torch.equal(lbfgs, other_lbfgs)


@BOTH
def test_classes_may_be_absent_from_either_part(digits, settings):
    train_x, train_y, test_x, test_y = digits
    no_seven, no_three = train_y != 7, test_y != 3
    result = run_probe(train_x[no_seven], train_y[no_seven], test_x[no_three], test_y[no_three], 12, config=settings)
    assert 60 < result.top1 < 95
    assert not (result.predictions == 7).any()


@BOTH
def test_top5_is_none_for_at_most_five_classes(digits, settings):
    train_x, train_y, test_x, test_y = digits
    # Also if the dataset names more classes but only five have images.
    for classes, named, expected in ((5, 5, type(None)), (5, 12, type(None)), (6, 6, float)):
        train, test = train_y < classes, test_y < classes
        result = run_probe(train_x[train], train_y[train], test_x[test], test_y[test], named, config=settings)
        assert type(result.top5) is expected


def test_every_allowed_probe_is_implemented():
    assert {*PROBES, "finetune"} == set(choices(probe_settings.ProbeConfig, "probe"))


def test_settings_are_passed_to_the_probe(digits):
    settings = {"probe_learning_rate": (0.02,), "probe_epochs": 2, "probe_batch": 300}
    for name, fit in (("sgd", sgd.sgd_probes), ("sgd-raw", sgd.raw_sgd_probes)):
        (direct,) = fit(Parts(*digits, 10), learning_rates=[0.02], epochs=2, batch_size=300, seed=7)
        asked = run_probe(*digits, 10, config=probe_settings.ProbeConfig(probe=name, **settings), seed=7)
        assert torch.equal(asked.classifier.weight, direct.classifier.weight)
    asked = probe_settings.ProbeConfig(probe="lbfgs", probe_l2=0.3)
    direct = lbfgs_probe(*digits, 10, l2=0.3)
    assert torch.equal(run_probe(*digits, 10, config=asked).classifier.weight, direct.classifier.weight)


@BOTH
@pytest.mark.parametrize("part", ["training", "test"])
def test_features_that_are_not_finite_are_refused(digits, settings, part):
    train_x, train_y, test_x, test_y = (value.clone() for value in digits)
    (train_x if part == "training" else test_x)[4, 2] = torch.inf
    with pytest.raises(ValueError, match=f"{part} features of 1 of .* not finite"):
        run_probe(train_x, train_y, test_x, test_y, 10, config=settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, u, v: (x, y, u, v + 1), "test part has labels from 1 to 10; with 10 classes"),
        (lambda x, y, u, v: (x, y - 1, u, v), "training part has labels from -1 to 8"),
        (lambda x, y, u, v: (x, y, u[:, :60], v), "training features are 64 wide, test features 60"),
        (lambda x, y, u, v: (x, y[:-1], u, v), r"features \(1200, 64\) and labels \(1199,\)"),
        (lambda x, y, u, v: (x, y, u[:0], v[:0]), "at least one row"),
    ],
)
def test_inconsistent_train_and_test_parts_are_refused(digits, change, message):
    for fit in (probe.lbfgs_probe, partial(probe.lbfgs_path_probe, seed=0)):
        with pytest.raises(ValueError, match=message):
            fit(Parts(*change(*digits), 10))


def test_a_negative_penalty_is_refused(digits):
    with pytest.raises(ValueError, match="probe_l2 is -1"):
        lbfgs_probe(*digits, 10, l2=-1.0)
