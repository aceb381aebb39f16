"""Short words for trials and times, the same in plans, progress and messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mdssl.config.methods import METHODS
from mdssl.config.trial import TrialConfig, relevant_settings
from mdssl.leaderboard.names import mixture_of
from mdssl.storage.location import Location

_SHORT = {
    "lambda1": "λ1",
    "lambda2": "λ2",
    "temperature": "τ",
    "num_clusters": "K",
    "epsilon": "ε",
    "warmup_iterations": "warm-up",
    "recluster_every": "every",
    "outlier_rule": "rule",
}


_TOLD_OTHERWISE = {"method", "domains", "data_fingerprint", "weights", "weights_fingerprint"}


def labels(configs: Iterable[TrialConfig], variants: Mapping[str, str] | None = None) -> dict[str, str]:
    """A few words for each trial, by its id: its method and what tells it from the others.

    ``mdssl λ1=0.9 λ2=0.05 seed=1``; a mixture stands after the method where there are several. ``variants``: by domain,
    what sets it apart from the published dataset.
    """
    configs = list(configs)
    settings = {config.trial_id: relevant_settings(config.to_dict()) for config in configs}
    found: dict[str, set] = {}
    for values in settings.values():
        for name, value in values.items():
            found.setdefault(name, set()).add(tuple(value) if isinstance(value, list) else value)
    # An untrained encoder has no domains, which alone makes no second mixture.
    mixtures = found.get("domains", set()) - {()}
    differing = {name for name, values in found.items() if len(values) > 1} - _TOLD_OTHERWISE
    labels = {}
    for config in configs:
        words = [config.method]
        if len(mixtures) > 1 and config.domains:
            words.append(mixture_of(config.train_mixture, variants or {}))
        if config.weights:
            words.append(Location.of(config.weights).name)
        for name, value in settings[config.trial_id].items():
            weighs = name in ("lambda1", "lambda2") and METHODS[config.method].weighs_domains
            if weighs or (name in differing and name not in ("lambda1", "lambda2")):
                words.append(f"{_SHORT.get(name, name)}={value if isinstance(value, str) else format(value, 'g')}")
        labels[config.trial_id] = " ".join(words)
    return labels


def duration(seconds: float) -> str:
    """Whole seconds as ``45s``, ``3m20s`` or ``5h04m``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
