"""Checks of settings that several classes share."""

from __future__ import annotations

from mdssl.errors import InputError, check_number


def check_lambda1(value: float) -> None:
    """Raise ``ValueError`` unless ``value`` lies in (0, 1]."""
    if 0 < value <= 1:
        return
    hint = "The paper stays at 0.9 or above."
    if -1 <= value < 0:
        hint = f"The paper's figures label this axis -lambda1: what they call {value:g} is lambda1 = {-value:g}."
    raise InputError(f"lambda1 is {value:g}; it must lie in (0, 1]. {hint}")


def check_mixture(domains: tuple[str, ...]) -> None:
    """Raise ``ValueError`` if a domain is in ``domains`` twice or a name cannot be part of ``a+b``."""
    for name in domains:
        if domains.count(name) > 1:
            raise InputError(
                f"domain {name!r} is {domains.count(name)} times in {'+'.join(domains)!r}; name each once."
            )
        if "+" in name:
            raise InputError(f"domain {name!r} contains a '+', which joins domains; give them as separate names.")


def check_schedule(schedule: str, decay_fraction: float, usual: float, iterations: int, warmup: int) -> None:
    """Raise ``ValueError`` unless ``decay_fraction`` fits the schedule, and leaves the warm-up its ``warmup`` steps."""
    if schedule == "cosine":
        if decay_fraction != usual:
            raise InputError(
                f"decay_fraction is {decay_fraction:g}, but schedule 'cosine' has no separate decay; use --schedule "
                "wsd, or leave it out."
            )
        return
    check_number("decay_fraction", decay_fraction, low=0, high=1, hint="It is a share of the iterations.")
    stable = iterations - round(decay_fraction * iterations)
    if warmup > stable:
        raise InputError(
            f"lr_warmup_iterations is {warmup}, but schedule 'wsd' decays after step {stable} of {iterations}; shorten "
            "the warm-up, or lower decay_fraction."
        )
