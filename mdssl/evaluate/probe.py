"""Linear probes: accuracy of one linear layer on frozen features.

The test part is used in `mdssl.evaluate.classifier.score` alone. A new probe is a function and an entry in `PROBES`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch.nn import functional as F

from mdssl.config.probe import ProbeConfig
from mdssl.errors import check_number
from mdssl.evaluate.classifier import Classifier, Parts, ProbeResult, percent, score, standardization
from mdssl.evaluate.sgd import held_out, raw_sgd_probes, sgd_probes

PENALTIES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
"""Of which the lbfgs-path probe chooses."""
LBFGS_MAX_ITERATIONS = 2000
"""A penalized fit takes 20 to 100 on images; only ``l2`` near 0 reaches this limit, with a warning."""

_GRADIENT_TOLERANCE = 1e-7
"""Largest entry of the gradient at the optimum, in the coordinates of `_fit_lbfgs`."""


def lbfgs_probe(parts: Parts, *, l2: float = ProbeConfig.probe_l2) -> ProbeResult:
    """Multinomial logistic regression on standardized features, solved to its unique optimum in float64.

    Minimizes mean cross-entropy + l2/2 ‖W‖², without a penalty on b. It is scikit-learn's with C = 1 / (l2 N), or
    C = 2 / (l2 N) for two classes, for which scikit-learn fits one row of weights.

    On held-out training images of four datasets (3,500 to 16,000 images), accuracy was within 2 points of the best
    penalty at 1e-2, within 4 at 1e-3, and up to 8 below at 1e-5.

    Args:
        l2: weight of the penalty per sample.

    Raises:
        ValueError: parts that do not match, a negative ``l2``, or features that are not finite.
    """
    parts.check()
    check_number("probe_l2", l2, low=0)
    return score(_fit_lbfgs(parts.train_x, parts.train_y, parts.num_classes, l2), parts)


def lbfgs_path_probe(parts: Parts, *, seed: int) -> ProbeResult:
    """`lbfgs_probe` with a penalty that is chosen on held-out training images.

    `PENALTIES` are fitted from the largest to the smallest, each from the fit before, without the images that
    `mdssl.evaluate.sgd.held_out` draws by ``seed``. The most accurate one on these, the larger of equals, is fitted
    again on all images. ``found`` has ``chosen_l2``, ``held_out_images`` and ``held_out_top1``, percent.

    Raises:
        ValueError: as `lbfgs_probe`.
    """
    parts.check()
    x, y, classes = parts.train_x, parts.train_y, parts.num_classes
    held = held_out(y, seed)
    found: dict[str, float] = {"chosen_l2": ProbeConfig.probe_l2, "held_out_images": int(held.sum())}
    if held.any():
        accuracies, fitted = [], None
        for l2 in PENALTIES:
            fitted = _fit_lbfgs(x[~held], y[~held], classes, l2, start=fitted)
            accuracies.append(percent(fitted.logits(x[held]).argmax(dim=1) == y[held]))
        best = max(accuracies)
        found |= {"chosen_l2": PENALTIES[accuracies.index(best)], "held_out_top1": best}
    return score(_fit_lbfgs(x, y, classes, found["chosen_l2"]), parts, found)


def _sgd(probes: Callable[..., list[ProbeResult]]) -> Callable[[Parts, ProbeConfig, int], list[ProbeResult]]:
    def run(parts: Parts, config: ProbeConfig, seed: int) -> list[ProbeResult]:
        settings = config.each()[0].settings()
        rates = {"learning_rates": config.probe_learning_rate} if config.probe_learning_rate else {}
        own = {"epochs": config.epochs, "batch_size": settings["probe_batch"], "seed": seed}
        own |= {"iterations": config.probe_iterations} if config.probe_iterations else {}
        return probes(parts, **rates, **own)

    return run


PROBES: dict[str, Callable[[Parts, ProbeConfig, int], list[ProbeResult]]] = {
    "lbfgs": lambda parts, config, seed: [lbfgs_probe(parts, l2=config.probe_l2)],
    "lbfgs-path": lambda parts, config, seed: [lbfgs_path_probe(parts, seed=seed)],
    "sgd": _sgd(sgd_probes),
    "sgd-raw": _sgd(raw_sgd_probes),
}
"""``ProbeConfig.probe`` to a function of parts, config and seed, with a result for each of ``config.each()``. The
probe ``finetune`` needs more than features: see `mdssl.evaluate.finetune`."""


def run_probes(parts: Parts, *, config: ProbeConfig, seed: int = 0) -> list[ProbeResult]:
    """Return a result for each of ``config.each()``; errors as for `mdssl.evaluate.sgd.sgd_probes`."""
    return PROBES[config.probe](parts, config, seed)


def _fit_lbfgs(
    x: torch.Tensor, y: torch.Tensor, num_classes: int, l2: float, start: Classifier | None = None
) -> Classifier:
    """Fit, from zero or from ``start``, in coordinates V = W R with Rᵀ R the covariance plus a multiple of the penalty.

    In them the objective is about equally curved in all directions, so that some tens of iterations are enough. For W,
    as features are strongly correlated, it would take hundreds to thousands.

    Classes without a row are left out, with a bias of -inf, which is their optimum: descent would go there for ever.

    Args:
        start: a fit on the same rows with another penalty.
    """
    present, y = y.unique(return_inverse=True)
    shift, scale = standardization(x)
    x = (x.double() - shift) / scale
    penalty = (50 * l2 + 1e-5) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    root = torch.linalg.cholesky(x.T @ x / len(x) + penalty, upper=True)
    inverse = torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=x.dtype, device=x.device), upper=True)
    rotated = x.new_zeros(len(present), x.shape[1]) if start is None else start.weight[present] @ root.T
    bias = x.new_zeros(len(present)) if start is None else start.bias[present]
    rotated.requires_grad_(), bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [rotated, bias],
        max_iter=LBFGS_MAX_ITERATIONS,
        max_eval=2 * LBFGS_MAX_ITERATIONS,
        history_size=30,
        tolerance_grad=_GRADIENT_TOLERANCE,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        weight = rotated @ inverse.T
        loss = F.cross_entropy(F.linear(x, weight, bias), y) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)
    if optimizer.state[rotated]["n_iter"] >= LBFGS_MAX_ITERATIONS:
        warnings.warn(
            f"the lbfgs probe stopped after {LBFGS_MAX_ITERATIONS} iterations without reaching its optimum, at "
            f"probe_l2 {l2:g}; raise probe_l2.",
            stacklevel=3,
        )
    weights, biases = x.new_zeros(num_classes, x.shape[1]), x.new_full((num_classes,), -torch.inf)
    weights[present], biases[present] = (rotated @ inverse.T).detach(), bias.detach()
    return Classifier(weights, biases, shift, scale)
