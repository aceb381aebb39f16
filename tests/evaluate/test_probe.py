import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from mdssl import run_config
from mdssl.evaluate import probe
from mdssl.evaluate.probe import PROBES, lbfgs_probe, run_probes, sgd_probe, sgd_probes

FAST_SGD = run_config.ProbeConfig(probe="sgd", probe_epochs=5, probe_learning_rate=(0.01,), probe_batch=256)
LBFGS = run_config.ProbeConfig(probe="lbfgs")
BOTH = pytest.mark.parametrize("settings", [FAST_SGD, LBFGS], ids=lambda settings: settings.probe)


def run_probe(*parts, **settings):
    """The result of a probe with one learning rate."""
    (result,) = run_probes(*parts, **settings)
    return result


def numpy_sgd(x, y, classes, learning_rate, epochs, batch_size, seed):
    """Plain SGD in float64 over the same order of batches, one sample's gradient after another."""
    x, y = x.double().numpy(), y.numpy()
    weight, bias = np.zeros((classes, x.shape[1])), np.zeros(classes)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator).numpy()
        for start in range(0, len(x), batch_size):
            batch = order[start : start + batch_size]
            by_weight, by_bias = np.zeros_like(weight), np.zeros_like(bias)
            for row in batch:
                logits = weight @ x[row] + bias
                error = np.exp(logits - logits.max())
                error /= error.sum()
                error[y[row]] -= 1
                by_weight += np.outer(error, x[row]) / len(batch)
                by_bias += error / len(batch)
            weight -= learning_rate * by_weight
            bias -= learning_rate * by_bias
    return weight, bias


def test_sgd_takes_the_steps_of_plain_sgd_on_cross_entropy(digits):
    train_x, train_y, test_x, test_y = digits
    train_x, train_y = train_x[:300] / 16, train_y[:300]
    # 300 rows in batches of 64: the last batch of each epoch has 44.
    settings = {"learning_rate": 0.1, "epochs": 4, "batch_size": 64, "seed": 3}
    result = sgd_probe(train_x, train_y, test_x / 16, test_y, 10, **settings)
    weight, bias = numpy_sgd(train_x, train_y, 10, **settings)
    np.testing.assert_allclose(result.classifier.weight, weight, atol=1e-5)
    np.testing.assert_allclose(result.classifier.bias, bias, atol=1e-5)
    predictions = (test_x.double().numpy() / 16 @ weight.T + bias).argmax(1)
    assert result.top1 == pytest.approx(100 * np.mean(predictions == test_y.numpy()), abs=0.2)


def test_sgd_defaults_are_the_papers():
    defaults = sgd_probe.__kwdefaults__
    assert (defaults["learning_rate"], defaults["epochs"], defaults["batch_size"]) == (0.1, 100, 1024)


@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-3])
def test_lbfgs_finds_the_optimum_that_scikit_learn_finds(digits, l2):
    train_x, train_y, test_x, test_y = digits
    ours = lbfgs_probe(*digits, 10, l2=l2)
    scaler = StandardScaler().fit(train_x.double().numpy())
    standard = scaler.transform(train_x.double().numpy())
    peer = LogisticRegression(C=1 / (l2 * len(train_x)), tol=1e-6, max_iter=3000).fit(standard, train_y.numpy())

    def objective(weight: torch.Tensor, bias: torch.Tensor) -> float:
        logits = torch.from_numpy(standard) @ weight.double().T + bias.double()
        return float(F.cross_entropy(logits, train_y) + l2 / 2 * weight.double().square().sum())

    best = objective(torch.from_numpy(peer.coef_), torch.from_numpy(peer.intercept_))
    assert objective(ours.classifier.weight, ours.classifier.bias) == pytest.approx(best, abs=1e-4)
    accuracy = 100 * peer.score(scaler.transform(test_x.double().numpy()), test_y.numpy())
    # One of 597 test rows may lie on the border.
    assert ours.top1 == pytest.approx(accuracy, abs=0.2)


def test_lbfgs_does_not_depend_on_the_scale_of_features(digits):
    train_x, train_y, test_x, test_y = digits
    factor, offset = torch.logspace(-3, 3, 64), torch.linspace(-5, 5, 64)
    changed = lbfgs_probe(train_x * factor + offset * factor, train_y, test_x * factor + offset * factor, test_y, 10)
    same = (changed.predictions == lbfgs_probe(*digits, 10).predictions).float().mean()
    assert same > 0.99


def test_features_that_are_constant_but_for_rounding_add_nothing(digits):
    train_x, train_y, test_x, test_y = digits
    generator = torch.Generator().manual_seed(0)
    # Steps of one unit in the last place: scaled to unit variance they would be 300 features of pure noise.
    rounded = [1000 + 6e-5 * torch.randint(2, (len(part), 300), generator=generator) for part in (train_x, test_x)]
    wider = [torch.cat([part, extra], 1) for part, extra in zip((train_x, test_x), rounded, strict=True)]
    same = lbfgs_probe(wider[0], train_y, wider[1], test_y, 10).predictions == lbfgs_probe(*digits, 10).predictions
    assert same.float().mean() > 0.99


def test_lbfgs_says_when_it_stops_short(digits, monkeypatch):
    monkeypatch.setattr(probe, "LBFGS_MAX_ITERATIONS", 3)
    with pytest.warns(UserWarning, match="after 3 iterations.*raise probe_l2"):
        lbfgs_probe(*digits, 10)


@BOTH
def test_top1_and_top5_are_scikit_learns(digits, settings):
    test_x, test_y = digits[2:]
    result = run_probe(*digits, 10, config=settings)
    logits = result.classifier.logits(test_x).numpy()
    assert result.top1 == pytest.approx(100 * top_k_accuracy_score(test_y, logits, k=1))
    assert result.top5 == pytest.approx(100 * top_k_accuracy_score(test_y, logits, k=5))
    assert 80 < result.top1 < result.top5 < 100.01
    assert type(result.top1) is float
    assert type(result.top5) is float


@BOTH
def test_the_test_labels_are_used_for_nothing_but_the_score(digits, settings):
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
def test_a_probe_is_deterministic_and_leaves_its_input_alone(digits, settings):
    before = [part.clone() for part in digits]
    first, again = (run_probe(*digits, 10, config=settings, seed=5) for _ in range(2))
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert all(torch.equal(part, kept) for part, kept in zip(digits, before, strict=True))


def test_the_seed_orders_the_batches_of_sgd_only(digits):
    sgd, other_sgd = (run_probe(*digits, 10, config=FAST_SGD, seed=seed).classifier.weight for seed in (0, 1))
    lbfgs, other_lbfgs = (run_probe(*digits, 10, config=LBFGS, seed=seed).classifier.weight for seed in (0, 1))
    assert not torch.equal(sgd, other_sgd)
    assert torch.equal(lbfgs, other_lbfgs)


@BOTH
def test_classes_may_be_absent_from_either_part(digits, settings):
    train_x, train_y, test_x, test_y = digits
    no_seven, no_three = train_y != 7, test_y != 3
    result = run_probe(train_x[no_seven], train_y[no_seven], test_x[no_three], test_y[no_three], 12, config=settings)
    assert 60 < result.top1 < 95
    assert not (result.predictions == 7).any()


@BOTH
def test_top5_is_none_where_it_would_say_nothing(digits, settings):
    train_x, train_y, test_x, test_y = digits
    for classes, expected in ((5, type(None)), (6, float)):
        train, test = train_y < classes, test_y < classes
        result = run_probe(train_x[train], train_y[train], test_x[test], test_y[test], classes, config=settings)
        assert type(result.top5) is expected


def test_every_probe_that_can_be_asked_for_is_there():
    assert set(PROBES) == set(run_config.PROBES)


def test_learning_rates_fitted_together_are_each_fitted_alone(digits):
    rates = (0.003, 0.03, 0.3)
    together = sgd_probes(*digits, 10, learning_rates=rates, epochs=4, batch_size=100, seed=2)
    for rate, result in zip(rates, together, strict=True):
        alone = sgd_probe(*digits, 10, learning_rate=rate, epochs=4, batch_size=100, seed=2)
        torch.testing.assert_close(result.classifier.weight, alone.classifier.weight, rtol=1e-4, atol=1e-6)
        assert abs(result.top1 - alone.top1) < 0.2
    assert len({result.top1 for result in together}) > 1, "the rates must matter for this test to say anything"


def test_the_settings_reach_the_probe(digits):
    asked = run_config.ProbeConfig(probe="sgd", probe_learning_rate=(0.02,), probe_epochs=2, probe_batch=300)
    direct = sgd_probe(*digits, 10, learning_rate=0.02, epochs=2, batch_size=300, seed=7)
    assert torch.equal(run_probe(*digits, 10, config=asked, seed=7).classifier.weight, direct.classifier.weight)
    asked = run_config.ProbeConfig(probe="lbfgs", probe_l2=0.3)
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
        (lambda x, y, u, v: (x, y, u, v + 5), "test part has labels from 5 to 14; with 10 classes"),
        (lambda x, y, u, v: (x, y - 1, u, v), "training part has labels from -1 to 8"),
        (lambda x, y, u, v: (x, y, u[:, :60], v), "training features are 64 wide, test features 60"),
        (lambda x, y, u, v: (x, y[:-1], u, v), r"features \(1200, 64\) and labels \(1199,\)"),
        (lambda x, y, u, v: (x, y, u[:0], v[:0]), "at least one row"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(digits, change, message):
    with pytest.raises(ValueError, match=message):
        lbfgs_probe(*change(*digits), 10)


def test_sgd_that_diverges_says_so(digits):
    train_x, train_y, test_x, test_y = digits
    with pytest.raises(ValueError, match="diverged at learning rate 1e\\+30"):
        sgd_probe(train_x * 1e10, train_y, test_x, test_y, 10, learning_rate=1e30, epochs=2)


def test_a_negative_penalty_is_refused(digits):
    with pytest.raises(ValueError, match="probe_l2 is -1"):
        lbfgs_probe(*digits, 10, l2=-1.0)
