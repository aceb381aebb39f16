"""Short words for trials and times, the same in plans, progress and messages."""

from __future__ import annotations

from mdssl.config import TrialConfig


def label(config: TrialConfig) -> str:
    """A trial in a few words: ``mdssl λ1=0.9 λ2=0.05 seed 1``."""
    words = [config.method]
    if config.method == "mdssl":
        words += [f"λ1={config.lambda1:g}", f"λ2={config.lambda2:g}"]
    if config.temperature != 0.1:
        words += [f"τ={config.temperature:g}"]
    if config.seed:
        words += [f"seed {config.seed}"]
    return " ".join(words)


def duration(seconds: float) -> str:
    """Whole seconds as ``45s``, ``3m20s`` or ``5h04m``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
