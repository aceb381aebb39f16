"""A trial on the tiny domains that trains in seconds."""

from mdssl.config.trial import TrialConfig


def tiny_trial(**changes) -> TrialConfig:
    """MDSSL with a ResNet-18 in float32 on tiny-a and tiny-b; ``changes`` are settings with other values."""
    base = {
        "arch": "resnet18",
        "domains": ("tiny-a", "tiny-b"),
        "batch_per_domain": 8,
        "iterations": 6,
        "lr_warmup_iterations": 2,
        "learning_rate": 0.5,
        "precision": "fp32",
        "lambda1": 0.9,
        "lambda2": 0.1,
    }
    return TrialConfig(**base | changes)
