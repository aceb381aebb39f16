"""The loss, forward and backward, is several times as fast as lightly's NT-Xent on a CPU, in a fraction of its memory.

2,048, 8,192 and 16,384 rows of width 128, float32, one domain, λ1 = 1, λ2 = 0. With these settings MDSSL equals
NT-Xent: first all contenders must give the same loss and gradient. Then MDSSL alone is timed with many domains, and
with domains of very different sizes, at 8,192 rows.

    python bench/loss.py [--device cuda]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from harness import Report, arguments, assert_close, extra_memory, paired_ratio, take_turns
from torch.nn import functional as F

from mdssl.pretrain.loss import mdssl_loss

TEMPERATURE, WIDTH = 0.1, 128
ROWS, HEADLINE_ROWS = (2_048, 8_192, 16_384), 8_192


def ours(z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
    one_domain = torch.zeros(len(z_a), dtype=torch.long)
    return mdssl_loss(z_a, z_b, one_domain, lambda1=1.0, lambda2=0.0, temperature=TEMPERATURE).total


def lightly(z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
    from lightly.loss import NTXentLoss

    return NTXentLoss(TEMPERATURE)(z_a, z_b)


def solo_learn_formula(z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
    """SimCLR's loss as in solo-learn: the whole similarity matrix, and a mask for each kind of pair."""
    count = len(z_a)
    z = F.normalize(torch.cat([z_a, z_b]), dim=1)
    similarity = (z @ z.T / TEMPERATURE).exp()
    image = torch.arange(count, device=z.device).repeat(2)
    same_image = image[:, None] == image[None]
    positives = same_image.clone().fill_diagonal_(False)
    positive = (similarity * positives).sum(1)
    negative = (similarity * ~same_image).sum(1)
    return -(positive / (positive + negative)).log().mean()


def metric_learning_supcon(z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
    from pytorch_metric_learning.losses import SupConLoss

    image = torch.arange(len(z_a), device=z_a.device).repeat(2)
    return SupConLoss(TEMPERATURE)(torch.cat([z_a, z_b]), image)


LOSSES = {
    "ours": ours,
    "lightly": lightly,
    "solo-learn's formula": solo_learn_formula,
    "metric-learning SupCon": metric_learning_supcon,
}


def representations(rows: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(rows // 2, WIDTH, generator=generator)
    views = [image + torch.randn(rows // 2, WIDTH, generator=generator) for _ in range(2)]
    return tuple(view.to(device).requires_grad_() for view in views)


def forward_backward(loss: Callable, rows: int, device: str) -> Callable[[], object]:
    z_a, z_b = representations(rows, device)

    def run() -> None:
        z_a.grad = z_b.grad = None
        loss(z_a, z_b).backward()

    return run


def prepare_named(name: str, rows: int, device: str) -> Callable[[], object]:
    forward_backward(LOSSES[name], 64, device)()
    return forward_backward(LOSSES[name], rows, device)


def check_agreement(device: str) -> None:
    expected, expected_gradient = None, None
    for name, loss in LOSSES.items():
        z_a, z_b = representations(1_024, device)
        value = loss(z_a, z_b)
        value.backward()
        if expected is None:
            expected, expected_gradient = value, z_a.grad
        assert_close(f"loss of {name}", value, expected, 1e-5)
        assert_close(f"gradient of {name}", z_a.grad, expected_gradient, 1e-4)


def domain_sizes(kind: str, count: int, images: int) -> list[int]:
    """Images of each domain. Ragged sizes are proportional to 1/k: the largest of 8 domains is 8 times the smallest."""
    weights = np.ones(count) if kind == "equal" else 1 / np.arange(1, count + 1)
    borders = np.round(images * np.cumsum(weights) / weights.sum()).astype(int)
    return np.diff(borders, prepend=0).tolist()


def mdssl(sizes: list[int], z_a: torch.Tensor, z_b: torch.Tensor) -> torch.Tensor:
    domains = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return mdssl_loss(z_a, z_b, domains, lambda1=0.9, lambda2=0.1, temperature=TEMPERATURE).total


def prepare_domains(kind: str, count: int, rows: int, device: str) -> Callable[[], object]:
    forward_backward(partial(mdssl, domain_sizes(kind, count, 32)), 64, device)()
    return forward_backward(partial(mdssl, domain_sizes(kind, count, rows // 2)), rows, device)


def main() -> None:
    flags = arguments(__doc__).parse_args()
    report = Report("rows/s", peer="lightly NTXentLoss")
    check_agreement(flags.device)
    for rows in ROWS:
        contenders = {name: forward_backward(loss, rows, flags.device) for name, loss in LOSSES.items()}
        # Fewer rounds for the largest size, which takes seconds and varies little.
        rounds = flags.rounds if rows < max(ROWS) else min(flags.rounds, 3)
        seconds = take_turns(contenders, rounds=rounds, device=flags.device)
        grown = {
            name: extra_memory(prepare_named, name, rows, flags.device, device=flags.device)
            for name in (LOSSES if rows == HEADLINE_ROWS else ("ours", "lightly"))
        }
        memory = {name: f"{mib:,.0f} MiB" for name, mib in grown.items()}
        report.timings(f"{rows:,} rows, one domain", seconds, work=rows, extra={"extra memory": memory})
        if rows == HEADLINE_ROWS:
            headline = seconds

    cases = {"1 domain": ("equal", 1), "8 equal": ("equal", 8), "8 ragged": ("ragged", 8), "32 equal": ("equal", 32)}
    contenders = {name: prepare_domains(*case, HEADLINE_ROWS, flags.device) for name, case in cases.items()}
    seconds = take_turns(contenders, rounds=flags.rounds, device=flags.device)
    grown = {
        name: extra_memory(prepare_domains, *case, HEADLINE_ROWS, flags.device, device=flags.device)
        for name, case in cases.items()
    }
    cells = {"extra memory": {name: f"{mib:,.0f} MiB" for name, mib in grown.items()}}
    report.timings(f"{HEADLINE_ROWS:,} rows in domains, λ1 = 0.9, λ2 = 0.1", seconds, work=HEADLINE_ROWS, extra=cells)
    ragged = paired_ratio(seconds, "8 ragged", to="8 equal")
    report.note(f"Ragged domains (largest 8 times the smallest) take {ragged:.2f} times as long as equal ones.")

    report.claim_from(f"NT-Xent forward + backward, {HEADLINE_ROWS:,} rows", headline, "ours", "lightly", HEADLINE_ROWS)


if __name__ == "__main__":
    main()
