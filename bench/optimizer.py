"""A LARS step on ResNet-50 is no slower than lightly's on a CPU, and waits for nothing on a GPU.

All parameters of a ResNet-50 with its projection head, weight decay 1e-6 without biases and normalization parameters.
First both take three steps from the same weights with the same gradients, and must reach the same weights to 1e-6. On
CUDA a step runs with torch.cuda.set_sync_debug_mode("error").

    python bench/optimizer.py [--device cuda]
"""

from __future__ import annotations

import copy

import torch
from harness import Report, arguments, assert_close, take_turns
from torch import nn

from mdssl.config.trial import TrialConfig
from mdssl.pretrain.model import build_model
from mdssl.pretrain.optim import build_optimizer

CONFIG = TrialConfig(arch="resnet50", domains=("any",), optimizer="lars", learning_rate=4.0, weight_decay=1e-6)


def lightly_lars(model: nn.Module, config: TrialConfig) -> torch.optim.Optimizer:
    from lightly.utils.lars import LARS

    kernels = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    # lightly's LARS also omits the layer-wise scale if weight decay is 0.
    groups = [{"params": kernels}, {"params": vectors, "weight_decay": 0.0}]
    return LARS(groups, lr=config.learning_rate, momentum=0.9, weight_decay=config.weight_decay, trust_coefficient=1e-3)


def set_gradients(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        # In the memory order of the weights, as after a backward pass.
        p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator) * 1e-3)


def main() -> None:
    flags = arguments(__doc__).parse_args()
    report = Report("steps/s", peer="lightly LARS")
    model = build_model(CONFIG).to(flags.device)
    models = {"ours": model, "lightly": copy.deepcopy(model)}
    optimizers = {"ours": build_optimizer(CONFIG, models["ours"]), "lightly": lightly_lars(models["lightly"], CONFIG)}
    for name, optimizer in optimizers.items():
        set_gradients(models[name])
        for _ in range(3):
            optimizer.step()
    pairs = zip(models["ours"].parameters(), models["lightly"].parameters(), strict=True)
    for got, expected in pairs:
        assert_close("weights after three steps", got, expected, 1e-6)

    seconds = take_turns(
        {name: optimizer.step for name, optimizer in optimizers.items()}, rounds=3 * flags.rounds, device=flags.device
    )
    count = sum(p.numel() for p in model.parameters())
    report.timings(f"One step over {count / 1e6:.1f} M parameters", seconds, work=1)
    if flags.device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        optimizers["ours"].step()
        torch.cuda.set_sync_debug_mode("default")
        report.note("No host synchronisation: a step runs under set_sync_debug_mode('error').")
    report.claim_from("LARS step, ResNet-50 with projection head", seconds, "ours", "lightly", 1)


if __name__ == "__main__":
    main()
