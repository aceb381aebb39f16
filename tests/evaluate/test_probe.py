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
from mdssl.evaluate.sgd import RATES, curvature, held_out

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


def sgd_probes(*parts, **settings):
    return sgd.sgd_probes(Parts(*parts), **settings)


def raw_sgd_probes(*parts, **settings):
    return sgd.raw_sgd_probes(Parts(*parts), **settings)


def sgd_probe(*parts, learning_rate=None, **settings):
    """The result of `sgd_probes` at one learning rate, or at the one that it chooses."""
    (result,) = sgd_probes(*parts, learning_rates=[learning_rate] if learning_rate else (), **settings)
    return result


def numpy_sgd(x, y, classes, learning_rate, epochs, batch_size, seed, *, of_whole_batch=False):
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
                divisor = batch_size if of_whole_batch else len(batch)
                by_weight += np.outer(error, x[row]) / divisor
                by_bias += error / divisor
            weight -= learning_rate * by_weight
            bias -= learning_rate * by_bias
    return weight, bias


SHORT = {"epochs": 4, "batch_size": 64, "seed": 3}
"""300 rows in batches of 64: the last batch of each epoch has 44."""


def test_raw_sgd_takes_the_steps_of_plain_sgd_on_cross_entropy(digits):
    train_x, train_y, test_x, test_y = digits
    # In float64, and at a rate at which that agrees with numpy to 1e-15 a step.
    train_x, train_y, test_x = train_x[:300].double() / 16, train_y[:300], test_x.double() / 16
    (result,) = raw_sgd_probes(train_x, train_y, test_x, test_y, 10, learning_rates=[0.1], **SHORT)
    weight, bias = numpy_sgd(train_x, train_y, 10, 0.1, **SHORT)
    np.testing.assert_allclose(result.classifier.weight, weight, atol=1e-12)
    np.testing.assert_allclose(result.classifier.bias, bias, atol=1e-12)
    predictions = (test_x.numpy() @ weight.T + bias).argmax(1)
    assert result.top1 == pytest.approx(100 * np.mean(predictions == test_y.numpy()))


def test_sgd_takes_the_steps_of_plain_sgd_on_scaled_features(digits):
    train_x, train_y, test_x, test_y = digits
    train_x, train_y = train_x[:300], train_y[:300]
    result = sgd_probe(train_x, train_y, test_x, test_y, 10, learning_rate=2.0, **SHORT)
    standard = StandardScaler().fit_transform(train_x.double().numpy())
    x = torch.from_numpy(standard) / curvature(torch.from_numpy(standard), 64) ** 0.5
    weight, bias = numpy_sgd(x, train_y, 10, 2.0, **SHORT, of_whole_batch=True)
    # Both in float64, and the fit is stable.
    np.testing.assert_allclose(result.classifier.weight, weight, atol=1e-10)
    np.testing.assert_allclose(result.classifier.bias, bias, atol=1e-10)


def test_raw_sgd_defaults_are_the_papers():
    settings = probe_settings.ProbeConfig(probe="sgd-raw").settings()
    assert (settings["probe_learning_rate"], settings["probe_epochs"], settings["probe_batch"]) == (0.1, 100, 1024)
    defaults = sgd.raw_sgd_probes.__kwdefaults__
    assert (defaults["learning_rates"], defaults["epochs"], defaults["batch_size"]) == ((0.1,), 100, 1024)


@pytest.fixture
def steep(digits):
    """Digits as a ResNet gives features: non-negative, correlated, some a thousand times larger than others."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(64, 96, generator=generator) + 0.5
    sizes = torch.logspace(-1, 2, 96)
    return tuple(part if part.ndim == 1 else (part @ mix / 64).relu() * sizes for part in digits)


def other_order(parts):
    """The same features, whose sums are added up from the other end."""
    train_x, train_y, test_x, test_y = parts
    return train_x.flip(1), train_y, test_x.flip(1), test_y


def test_features_are_standardized_as_scikit_learn_does_it(digits):
    train_x = torch.cat([digits[0] * 1000, torch.full((len(digits[0]), 1), 7.0)], dim=1)
    theirs = StandardScaler().fit(train_x.double().numpy())
    assert (theirs.var_ == 0).any()
    for ours, expected in zip(standardization(train_x), (theirs.mean_, theirs.scale_), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12)


@pytest.mark.parametrize("batch_size", [16, 256])
def test_rounding_does_not_grow_at_the_highest_rate(steep, batch_size):
    """1,000 to 8,000 steps, of which each may add one rounding of float64, 1e-16: no more than 1e-11 together."""
    settings = {"learning_rate": probe_settings.MAX_STABLE_RATE, "batch_size": batch_size}
    result, other = (sgd_probe(*parts, 10, **settings) for parts in (steep, other_order(steep)))
    difference = (result.classifier.weight - other.classifier.weight.flip(1)).abs().max()
    assert difference < 1e-11 * result.classifier.weight.abs().max()
    assert torch.equal(result.predictions, other.predictions)


def test_no_batch_is_so_steep_that_a_step_expands(steep):
    """A step at rate r is no expansion where r/2 times the batch's largest second moment is at most 2."""
    train_x = steep[0]
    shift, scale = standardization(train_x)
    x = (train_x.double() - shift) / scale
    for size in (16, 64, 256):
        scaled = torch.nn.functional.pad(x / curvature(x, size) ** 0.5, (0, 1), value=1)
        batches = torch.randperm(len(x), generator=torch.Generator().manual_seed(size)).split(size)
        steepest = max(float(torch.linalg.eigvalsh(scaled[rows].T @ scaled[rows] / size)[-1]) for rows in batches)
        assert probe_settings.MAX_STABLE_RATE / 2 * steepest <= 2
        # Nor is the bound so loose that training would take ten times the steps.
        assert steepest > 0.1


def test_a_raw_score_that_the_order_of_sums_decides_is_marked(steep):
    """At a rate far above what is stable; at a small one no score is marked."""
    steady, unsteady = raw_sgd_probes(*steep, 10, learning_rates=[1e-6, 1.0], epochs=30, batch_size=256)
    assert dict(steady.found) == {}
    assert unsteady.found["unstable"] is True
    (other,) = raw_sgd_probes(*other_order(steep), 10, learning_rates=[1.0], epochs=30, batch_size=256)
    assert abs(other.top1 - unsteady.top1) > 0.2
    assert sgd_probe(*steep, 10, epochs=30).top1 > max(unsteady.top1, 80)


def test_the_learning_rate_is_chosen_on_held_out_training_images_and_fitted_to_all(digits):
    train_x, train_y = digits[:2]
    chosen = sgd_probe(*digits, 10, epochs=5, seed=1)
    held = held_out(train_y, 1)
    shares = torch.bincount(train_y[held]) / torch.bincount(train_y)
    # 15 % of about 120 images a class, to a whole image.
    assert (shares - 0.15).abs().max() < 0.5 / 110
    parts = (train_x[~held], train_y[~held], train_x[held], train_y[held], 10)
    scores = [result.top1 for result in sgd_probes(*parts, learning_rates=RATES, epochs=5, seed=1)]
    rate = RATES[int(np.argmax(scores))]
    assert chosen.found["chosen_learning_rate"] == rate
    assert chosen.found["held_out_images"] == int(held.sum())
    # The probe scales by all training images, here by the others alone: one image of 180.
    assert chosen.found["held_out_top1"] == pytest.approx(max(scores), abs=100 / 180 + 0.01)
    refitted = sgd_probe(*digits, 10, learning_rate=rate, epochs=5, seed=1)
    assert torch.equal(chosen.classifier.weight, refitted.classifier.weight)


def test_too_few_images_to_hold_some_out_are_fitted_at_the_middle_rate(digits):
    train_x, train_y, test_x, test_y = digits
    first = torch.cat([torch.nonzero(train_y == label)[:3, 0] for label in range(10)])
    found = sgd_probe(train_x[first], train_y[first], test_x, test_y, 10).found
    assert dict(found) == {"chosen_learning_rate": RATES[1], "held_out_images": 0}


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("l2", [1e-1, 1e-3, 1e-4])
def test_lbfgs_finds_the_optimum_that_scikit_learn_finds(steep, l2, classes):
    train, test = steep[1] < classes, steep[3] < classes
    train_x, train_y, test_x, test_y = steep[0][train], steep[1][train], steep[2][test], steep[3][test]
    ours = lbfgs_probe(train_x, train_y, test_x, test_y, classes, l2=l2)
    scaler = StandardScaler().fit(train_x.double().numpy())
    standard = scaler.transform(train_x.double().numpy())
    # With two classes it has one row of weights, w, where we have w/2 and -w/2, whose squares are half as large.
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


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("decay", [1.0, 2.0, 3.0])
def test_lbfgs_reaches_the_optimum_on_ill_conditioned_features(decay, classes):
    """Like chest X-rays: two classes, and features most of which are sums of a few; condition numbers of 1e2 to 1e7."""
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
    # One image in 624 of chest X-ray is 0.16 points: no logit may be far enough away to turn one.
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
def test_top5_is_none_where_it_would_say_nothing(digits, settings):
    train_x, train_y, test_x, test_y = digits
    # Also where five of more classes have images.
    for classes, named, expected in ((5, 5, type(None)), (5, 12, type(None)), (6, 6, float)):
        train, test = train_y < classes, test_y < classes
        result = run_probe(train_x[train], train_y[train], test_x[test], test_y[test], named, config=settings)
        assert type(result.top5) is expected


def test_every_probe_that_can_be_asked_for_is_there():
    assert {*PROBES, "finetune"} == set(choices(probe_settings.ProbeConfig, "probe"))


def test_learning_rates_fitted_together_are_each_fitted_alone(steep):
    rates = (0.02, 0.2, 2.0)
    together = sgd_probes(*steep, 10, learning_rates=rates, epochs=20, batch_size=100, seed=2)
    for rate, result in zip(rates, together, strict=True):
        alone = sgd_probe(*steep, 10, learning_rate=rate, epochs=20, batch_size=100, seed=2)
        # Products of other shapes add up in another order, in float64; stable steps let that grow no further.
        torch.testing.assert_close(result.classifier.weight, alone.classifier.weight, rtol=1e-9, atol=1e-12)
        assert torch.equal(result.predictions, alone.predictions)
    assert len({result.top1 for result in together}) == 3, "the rates must matter for this test to say anything"


def test_the_settings_reach_the_probe(digits):
    settings = {"probe_learning_rate": (0.02,), "probe_epochs": 2, "probe_batch": 300}
    for name, fit in (("sgd", sgd_probes), ("sgd-raw", raw_sgd_probes)):
        (direct,) = fit(*digits, 10, learning_rates=[0.02], epochs=2, batch_size=300, seed=7)
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


def test_raw_sgd_that_diverges_says_so(digits):
    train_x, train_y, test_x, test_y = digits
    with pytest.raises(ValueError, match="diverged at learning rate 1e\\+30"):
        raw_sgd_probes(train_x * 1e10, train_y, test_x, test_y, 10, learning_rates=[1e30], epochs=2)


def test_a_negative_penalty_is_refused(digits):
    with pytest.raises(ValueError, match="probe_l2 is -1"):
        lbfgs_probe(*digits, 10, l2=-1.0)
