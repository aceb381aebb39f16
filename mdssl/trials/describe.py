"""The words for states, trials and times, the same in plans, progress, status and messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Required, TypedDict

import pandas as pd

from mdssl.config.methods import METHODS
from mdssl.config.trial import TrialConfig, relevant_settings
from mdssl.storage.filesystems import file_name
from mdssl.tables.compare import settings_apart

State = Literal["queued", "training", "evaluating", "finished", "failed", "stopped"]
"""The state of a trial, in one word everywhere."""


class Report(TypedDict, total=False):
    """The last report of a trial to the sweep's driver, through Tune. Reports while it trains have numbers as well.

    Attributes:
        error: of a failed trial.
        owner: the process that holds the trial's claim, if that is another one.
        reached: the step of the newest checkpoint of a trial that is claimed elsewhere.
        step_saved: the step of the checkpoint that the trial wrote after its process alone got SIGTERM.
        ended_early: whether a scheduler or `mdssl stop` stopped the trial.
        on_request: whether it was `mdssl stop`.
    """

    state: Required[State]
    error: str
    owner: str
    reached: int
    step_saved: int
    ended_early: bool
    on_request: bool


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
_NAMED_SEPARATELY = (
    *("method", "domains", "data_fingerprint", "weights", "weights_fingerprint", "lambda1", "lambda2"),
    *("init_fingerprint", "normalization"),
)


def labels(configs: Iterable[TrialConfig], mixtures: Mapping[str, str] | None = None) -> dict[str, str]:
    """Label each trial, by its id: its method and the settings that distinguish it.

    ``mdssl λ1=0.9 λ2=0.05 seed=1``; the mixture follows the method where there are several. ``mixtures``: by trial
    id, the mixture as it is shown.
    """
    configs = list(configs)
    settings = {config.trial_id: relevant_settings(config.to_dict()) for config in configs}
    # An untrained encoder has no domains, which alone makes no second mixture.
    several = len({config.domains for config in configs if config.domains}) > 1
    differing = settings_apart(pd.DataFrame(settings.values()), but=_NAMED_SEPARATELY, missing_differs=False)
    found = {}
    for config in configs:
        words = [config.method]
        if several and config.domains:
            words.append((mixtures or {}).get(config.trial_id, config.train_mixture))
        if config.weights:
            words.append(file_name(config.weights))
        for name, value in settings[config.trial_id].items():
            weighs = name in ("lambda1", "lambda2") and METHODS[config.method].weighs_domains
            if name == "init":
                value = file_name(value)
            if (name in differing or weighs) and value is not None:
                words.append(f"{_SHORT.get(name, name)}={value if isinstance(value, str) else format(value, 'g')}")
        found[config.trial_id] = " ".join(words)
    return found


def duration(seconds: float) -> str:
    """Whole seconds as ``45s``, ``3m20s`` or ``5h04m``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
