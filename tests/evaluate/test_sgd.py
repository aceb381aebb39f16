"""The sgd probes, compared with plain SGD, and their numerical stability."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from mdssl.config import probe as probe_settings
from mdssl.evaluate import sgd
from mdssl.evaluate.classifier import Parts, standardization
from mdssl.evaluate.sgd import RATES, curvature, held_out


def sgd_probes(*parts, **settings):
    return sgd.sgd_probes(Parts(*parts), **settings)


def raw_sgd_probes(*parts, **settings):
    return sgd.raw_sgd_probes(Parts(*parts), **settings)


def sgd_probe(*parts, learning_rate=None, **settings):
    """The result of `sgd_probes` at one learning rate, or at the one that it chooses."""
    (result,) = sgd_probes(*parts, learning_rates=[learning_rate] if learning_rate else (), **settings)
    return result


def numpy_sgd(x, y, classes, learning_rate, epochs, batch_size, seed, *, of_whole_batch=False):
    """Plain SGD in float64 on the same batches in the same order, with one gradient per sample."""
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


def test_raw_sgd_matches_plain_sgd_on_cross_entropy(digits):
    train_x, train_y, test_x, test_y = digits
    # In float64, and at a learning rate at which a step agrees with numpy to 1e-15.
    train_x, train_y, test_x = train_x[:300].double() / 16, train_y[:300], test_x.double() / 16
    (result,) = raw_sgd_probes(train_x, train_y, test_x, test_y, 10, learning_rates=[0.1], **SHORT)
    weight, bias = numpy_sgd(train_x, train_y, 10, 0.1, **SHORT)
    np.testing.assert_allclose(result.classifier.weight, weight, atol=1e-12)
    np.testing.assert_allclose(result.classifier.bias, bias, atol=1e-12)
    predictions = (test_x.numpy() @ weight.T + bias).argmax(1)
    assert result.top1 == pytest.approx(100 * np.mean(predictions == test_y.numpy()))


def test_sgd_matches_plain_sgd_on_scaled_features(digits):
    train_x, train_y, test_x, test_y = digits
    train_x, train_y = train_x[:300], train_y[:300]
    result = sgd_probe(train_x, train_y, test_x, test_y, 10, learning_rate=2.0, **SHORT)
    standard = StandardScaler().fit_transform(train_x.double().numpy())
    x = torch.from_numpy(standard) / curvature(torch.from_numpy(standard), 64) ** 0.5
    weight, bias = numpy_sgd(x, train_y, 10, 2.0, **SHORT, of_whole_batch=True)
    # Both use float64, and the fit is stable.
    np.testing.assert_allclose(result.classifier.weight, weight, atol=1e-10)
    np.testing.assert_allclose(result.classifier.bias, bias, atol=1e-10)


def test_raw_sgd_defaults_match_the_paper():
    settings = probe_settings.ProbeConfig(probe="sgd-raw").settings()
    assert (settings["probe_learning_rate"], settings["probe_epochs"], settings["probe_batch"]) == (0.1, 100, 1024)
    defaults = sgd.raw_sgd_probes.__kwdefaults__
    assert (defaults["learning_rates"], defaults["epochs"], defaults["batch_size"]) == ((0.1,), 100, 1024)


def other_order(parts):
    """The same features in reverse order, which changes the order of summation."""
    train_x, train_y, test_x, test_y = parts
    return train_x.flip(1), train_y, test_x.flip(1), test_y


@pytest.mark.parametrize("batch_size", [16, 256])
def test_rounding_errors_do_not_grow_at_the_highest_learning_rate(steep, batch_size):
    """Each of 1,000 to 8,000 steps may add one rounding error of float64, 1e-16: together at most 1e-11."""
    settings = {"learning_rate": probe_settings.MAX_STABLE_RATE, "batch_size": batch_size}
    result, other = (sgd_probe(*parts, 10, **settings) for parts in (steep, other_order(steep)))
    difference = (result.classifier.weight - other.classifier.weight.flip(1)).abs().max()
    assert difference < 1e-11 * result.classifier.weight.abs().max()
    assert torch.equal(result.predictions, other.predictions)


def test_the_curvature_of_each_batch_is_within_the_stable_range(steep):
    """A step at rate r is not expansive if r/2 times the largest second moment of the batch is at most 2."""
    train_x = steep[0]
    shift, scale = standardization(train_x)
    x = (train_x.double() - shift) / scale
    for size in (16, 64, 256):
        scaled = torch.nn.functional.pad(x / curvature(x, size) ** 0.5, (0, 1), value=1)
        batches = torch.randperm(len(x), generator=torch.Generator().manual_seed(size)).split(size)
        steepest = max(float(torch.linalg.eigvalsh(scaled[rows].T @ scaled[rows] / size)[-1]) for rows in batches)
        assert probe_settings.MAX_STABLE_RATE / 2 * steepest <= 2
        # The bound is tight enough that training does not take ten times as many steps.
        assert steepest > 0.1
    assert curvature(torch.zeros(8, 3), 2) == 1, "that of the bias alone"


def test_a_raw_score_that_depends_on_summation_order_is_marked_unstable(steep):
    """A learning rate far above the stable range is marked; a small one is not."""
    steady, unsteady = raw_sgd_probes(*steep, 10, learning_rates=[1e-6, 1.0], epochs=30, batch_size=256)
    assert dict(steady.found) == {}
    assert unsteady.found["unstable"] is True
    (other,) = raw_sgd_probes(*other_order(steep), 10, learning_rates=[1.0], epochs=30, batch_size=256)
    assert abs(other.top1 - unsteady.top1) > 0.2
    assert sgd_probe(*steep, 10, epochs=30).top1 > max(unsteady.top1, 80)


def test_the_learning_rate_is_chosen_on_held_out_images_and_refitted_to_all(digits):
    train_x, train_y = digits[:2]
    assert np.divide(RATES[:-1], RATES[1:]) == pytest.approx(10**0.5, rel=0.06), "rates are evenly spaced"
    chosen = sgd_probe(*digits, 10, epochs=5, seed=1)
    held = held_out(train_y, 1)
    shares = torch.bincount(train_y[held]) / torch.bincount(train_y)
    # 15 % of about 120 images per class, rounded to whole images.
    assert (shares - 0.15).abs().max() < 0.5 / 110
    parts = (train_x[~held], train_y[~held], train_x[held], train_y[held], 10)
    scores = [result.top1 for result in sgd_probes(*parts, learning_rates=RATES, epochs=5, seed=1)]
    rate = RATES[int(np.argmax(scores))]
    assert chosen.found["chosen_learning_rate"] == rate
    assert chosen.found["held_out_images"] == int(held.sum())
    # The probe standardizes by all training images, this test by those not held out: one image of 180 may differ.
    assert chosen.found["held_out_top1"] == pytest.approx(max(scores), abs=100 / 180 + 0.01)
    refitted = sgd_probe(*digits, 10, learning_rate=rate, epochs=5, seed=1)
    assert torch.equal(chosen.classifier.weight, refitted.classifier.weight)


def test_the_middle_learning_rate_is_used_if_no_images_can_be_held_out(digits):
    train_x, train_y, test_x, test_y = digits
    first = torch.cat([torch.nonzero(train_y == label)[:3, 0] for label in range(10)])
    found = sgd_probe(train_x[first], train_y[first], test_x, test_y, 10).found
    assert dict(found) == {"chosen_learning_rate": RATES[1], "held_out_images": 0}


def test_learning_rates_fitted_together_match_separate_fits(steep):
    rates = (0.02, 0.2, 2.0)
    together = sgd_probes(*steep, 10, learning_rates=rates, epochs=20, batch_size=100, seed=2)
    for rate, result in zip(rates, together, strict=True):
        alone = sgd_probe(*steep, 10, learning_rate=rate, epochs=20, batch_size=100, seed=2)
        # Products of other shapes have another order of summation, in float64; stable steps do not amplify that.
        torch.testing.assert_close(result.classifier.weight, alone.classifier.weight, rtol=1e-9, atol=1e-12)
        assert torch.equal(result.predictions, alone.predictions)
    assert len({result.top1 for result in together}) == 3, "scores must differ between learning rates"


@pytest.mark.parametrize("probes", [sgd_probes, raw_sgd_probes])
def test_iterations_count_steps(probes, digits):
    settings = {"learning_rates": [0.1], "batch_size": 64, "seed": 3}
    parts = (*(part[:300] for part in digits), 10)
    (by_epochs,) = probes(*parts, epochs=2, **settings)
    (by_steps,) = probes(*parts, iterations=2 * 5, **settings)
    assert torch.equal(by_epochs.classifier.weight, by_steps.classifier.weight)


def test_divergence_of_raw_sgd_is_reported(digits):
    train_x, train_y, test_x, test_y = digits
    with pytest.raises(ValueError, match="diverged at learning rate 1e\\+30"):
        raw_sgd_probes(train_x * 1e10, train_y, test_x, test_y, 10, learning_rates=[1e30], epochs=2)
