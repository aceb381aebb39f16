"""A linear probe by SGD against nn.Linear and torch.optim.SGD on tensors in memory, one probe against one.

Features of 50,000 training images of width 2,048, in batches of 1,024, ten classes. Ours fits eight learning rates at
once on raw features, as in the paper, on one dataset after another, or one learning rate. The peers fit one, with
batches indexed from the tensors or from a DataLoader. First both take the same batches in the same order, and must
reach the same weights. Then 100 epochs of SGD, as in the paper and on standardized features, are compared with L-BFGS:
seconds of the whole probe, and accuracy on 10,000 held-out rows.

    python bench/probe.py [--device cuda]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from harness import Report, arguments, assert_close, duration, take_turns, timed
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from mdssl.evaluate.classifier import Parts
from mdssl.evaluate.probe import lbfgs_probe
from mdssl.evaluate.sgd import fit_sgd, raw_sgd_probes, sgd_probes

TRAIN, TEST, WIDTH, CLASSES, BATCH = 50_000, 10_000, 2_048, 10, 1_024
LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
DATASETS = 2
EPOCHS = 5
"""Epochs that are timed; the time of a probe is proportional to its epochs."""

Features = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def features(seed: int, device: str, *, train: int = TRAIN, test: int = TEST, width: int = WIDTH) -> Features:
    """Non-negative features of overlapping classes, as from average pooling of a ResNet."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (train + test,), generator=generator)
    means = 0.3 * torch.randn(CLASSES, 32, generator=generator)
    x = means[y] + torch.randn(train + test, 32, generator=generator)
    x = (x @ torch.randn(32, width, generator=generator) / 32**0.5).relu_()
    return tuple(part.to(device) for part in (x[:train], y[:train], x[train:], y[train:]))


def usual_probe(width: int, batches: Callable[[], Iterable], learning_rate: float, epochs: int, device: str):
    """A typical handwritten probe, which starts from zero weights as ours does."""
    layer = nn.Linear(width, CLASSES).to(device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=learning_rate)
    for _ in range(epochs):
        for x, y in batches():
            optimizer.zero_grad()
            F.cross_entropy(layer(x.to(device)), y.to(device)).backward()
            optimizer.step()
    return layer


def check_agreement(parts: Features) -> None:
    x, y, test_x, test_y = (part[:4_000] for part in parts)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    batches = [(x[rows.to(x.device)], y[rows.to(x.device)]) for rows in order.split(BATCH)]
    together = raw_sgd_probes(
        Parts(x, y, test_x, test_y, CLASSES), learning_rates=LEARNING_RATES, epochs=1, batch_size=BATCH, seed=0
    )
    for rate, result in zip(LEARNING_RATES, together, strict=True):
        peer = usual_probe(WIDTH, lambda: batches, rate, 1, x.device.type)
        assert_close(f"weights at learning rate {rate}", result.classifier.weight, peer.weight, 1e-3)


def main() -> None:
    flags = arguments(__doc__).parse_args()
    datasets = [features(seed, flags.device) for seed in range(DATASETS)]
    check_agreement(datasets[0])
    x, y, _, _ = datasets[0]
    loader = DataLoader(
        TensorDataset(x.cpu(), y.cpu()), batch_size=BATCH, shuffle=True, pin_memory=flags.device == "cuda"
    )
    settings = {"num_classes": CLASSES, "epochs": EPOCHS, "batch_size": BATCH, "seed": 0, "whole_batch": False}
    probes = DATASETS * len(LEARNING_RATES)

    def all_at_once() -> None:
        for parts in datasets:
            fit_sgd(*parts[:2], LEARNING_RATES, **settings)

    def indexed() -> Iterable:
        return ((x[rows], y[rows]) for rows in torch.randperm(len(x), device=x.device).split(BATCH))

    contenders = {
        "ours, one probe": lambda: fit_sgd(*datasets[0][:2], (0.1,), **settings),
        "tensors + Linear + SGD": lambda: usual_probe(WIDTH, indexed, 0.1, EPOCHS, flags.device),
        "DataLoader + Linear + SGD": lambda: usual_probe(WIDTH, lambda: loader, 0.1, EPOCHS, flags.device),
        f"ours, {probes} probes": all_at_once,
    }
    seconds = take_turns(contenders, rounds=flags.rounds, device=flags.device)
    # Time per probe, so that sixteen probes are comparable with one.
    seconds = {name: [s / probes if "probes" in name else s for s in values] for name, values in seconds.items()}
    report = Report("probes/s", peer="nn.Linear + torch.optim.SGD on indexed tensors")
    title = f"Time per probe of {EPOCHS} epoch(s), {TRAIN:,} × {WIDTH:,}; {len(LEARNING_RATES)} learning rates"
    report.timings(f"{title} × {DATASETS} datasets", seconds, work=1)

    found = {}
    fitted = timed(lambda: found.update(lbfgs=lbfgs_probe(Parts(*datasets[0], CLASSES))), flags.device)
    stable = timed(lambda: found.update(stable=sgd_probes(Parts(*datasets[0], CLASSES))[0]), flags.device)
    swept = timed(
        lambda: found.update(sgd=raw_sgd_probes(Parts(*datasets[0], CLASSES), learning_rates=LEARNING_RATES)),
        flags.device,
    )
    rows = [["L-BFGS", duration(fitted), f"{found['lbfgs'].top1:.1f}"]]
    rate = found["stable"].found["chosen_learning_rate"]
    rows += [[f"SGD on standardized features, {rate:g} chosen", duration(stable), f"{found['stable'].top1:.1f}"]]
    rows += [
        [f"SGD on raw features at {rate:g}", duration(swept / len(LEARNING_RATES)), f"{result.top1:.1f}"]
        for rate, result in zip(LEARNING_RATES, found["sgd"], strict=True)
    ]
    report.table("To the end: L-BFGS to convergence, SGD for 100 epochs", ["", "time", "top-1, %"], rows)
    report.claim_from("linear probe by SGD, one", seconds, "ours, one probe", "tensors + Linear + SGD", 1)


if __name__ == "__main__":
    main()
