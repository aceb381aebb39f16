"""A ResNet-18's forward and backward pass on a CPU is faster with SmallMapConv2d than with torch.nn.Conv2d.

With the paper's stem, 32×32 images give maps of 2×2 and 1×1 in the last two stages, where a 3×3 convolution mostly
multiplies padding. The forward and backward pass of the encoder on 256 views is timed with one thread, in fp32 and bf16
autocast. First both must give the same features and gradients in float32.

    python bench/small_maps.py
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from harness import Report, arguments, assert_close, take_turns
from torch import nn

from mdssl.config.trial import TrialConfig
from mdssl.pretrain.model import SmallMapConv2d, build_model

VIEWS = 256


def with_torch_convolutions(encoder: nn.Module) -> nn.Module:
    """The peer: the same encoder and weights with torch.nn.Conv2d."""
    peer = copy.deepcopy(encoder)
    for block in peer.modules():
        for name, child in block.named_children():
            if isinstance(child, SmallMapConv2d):
                conv = nn.Conv2d(child.in_channels, child.out_channels, 3, child.stride, 1, bias=False)
                conv.weight = child.weight
                setattr(block, name, conv)
    return peer


def step(encoder: nn.Module, x: torch.Tensor, bf16: bool) -> torch.Tensor:
    encoder.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        features = encoder(x)
    features.float().square().mean().backward()
    return features


def check_agreement(ours: nn.Module, peer: nn.Module, x: torch.Tensor) -> None:
    pairs = [(step(ours, x, False), step(peer, x, False))]
    pairs += [(p.grad, q.grad) for p, q in zip(ours.parameters(), peer.parameters(), strict=True)]
    for got, expected in pairs:
        assert_close("features or gradients", got, expected, 1e-3)


def main() -> None:
    flags = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours = build_model(TrialConfig(arch="resnet18", domains=("any",))).encoder
    peer = with_torch_convolutions(ours)
    x = torch.randn(VIEWS, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    check_agreement(ours, peer, x)
    report = Report("views/s", peer="torch.nn.Conv2d")
    for precision in ("fp32", "bf16"):
        contenders = {
            name: partial(step, encoder, x, precision == "bf16")
            for name, encoder in (("ours", ours), ("torch.nn.Conv2d", peer))
        }
        seconds = take_turns(contenders, rounds=flags.rounds)
        report.timings(f"ResNet-18, {VIEWS} views, 1 thread, {precision}", seconds, work=VIEWS)
    report.claim_from("encoder, forward + backward, 1 thread, bf16", seconds, "ours", "torch.nn.Conv2d", VIEWS)


if __name__ == "__main__":
    main()
