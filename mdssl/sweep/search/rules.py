"""Early stopping by the rules of Ray Tune, applied to the scores of all trials at each new score.

Tune itself would end a trial at once: a nested one would leave its placement group and its claim, and none would be
scored or write a row. So the decision travels to the trial, which saves a checkpoint and ends by itself:
`mdssl.sweep.stopping`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from mdssl.config.trial import TrialConfig
from mdssl.sweep.search.settings import SearchSettings, rungs
from mdssl.sweep.stopping import put_decision

_FEWEST_OTHERS = 3
"""Other trials with a score at a step, below which the median rule ends no trial there."""


def ends_early(
    settings: SearchSettings,
    iterations: int,
    own: Mapping[int, float],
    others: Mapping[str, Mapping[int, float]],
) -> bool:
    """Whether a trial ends after its newest score, by the rule of ``settings.scheduler``.

    Args:
        own: the trial's scores, by step.
        others: those of other trials, by id and step.
    """
    names: dict[str, Any] = {"metric": "score", "mode": "max", "time_attr": "step"}
    first = rungs(settings, iterations)[0]
    rule: Any  # its methods take a controller and a trial of Tune, of which they use the trial's id
    if settings.scheduler == "asha":
        rule = ASHAScheduler(
            **names, max_t=iterations, grace_period=first, reduction_factor=settings.reduction_factor,
            stop_last_trials=False,
        )  # fmt: skip
    else:
        # Without a time slice no trial is paused for others to catch up.
        names |= {"min_samples_required": _FEWEST_OTHERS, "min_time_slice": float("inf")}
        rule = MedianStoppingRule(**names, grace_period=first)
    *earlier, (step, score) = sorted(own.items())
    asked = _RuleTrial("")
    for trial, scores in [(_RuleTrial(name), sorted(scores.items())) for name, scores in others.items()] + [
        (asked, earlier)
    ]:
        for its_step, its_score in scores:
            # Told as the last result of a trial, on which no rule decides.
            rule.on_trial_add(None, trial)
            rule.on_trial_complete(None, trial, {"step": its_step, "score": its_score})
    rule.on_trial_add(None, asked)
    decision: str = rule.on_trial_result(None, asked, {"step": step, "score": score})
    return decision == TrialScheduler.STOP


class _RuleTrial(NamedTuple):
    """The attributes of a trial that Tune's rules use."""

    trial_id: str


class EarlyStopping(FIFOScheduler):
    """Passes each validation score of a trial to `ends_early`, and the answer to the trial.

    Args:
        known: the scores that the storage has of all trials, by id and step.
    """

    def __init__(self, settings: SearchSettings, known: Callable[[], dict[str, dict[int, float]]]):
        super().__init__()
        self.settings, self.known = settings, known
        self.live: dict[str, dict[int, float]] = {}

    def __getstate__(self) -> dict:
        # Tune pickles its scheduler for a restore that this project does not use.
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict) -> str:
        score = result.get("val_linear_top1")
        if score is not None and trial.config["work"]["may_end_early"]:
            config, step = TrialConfig.from_dict(trial.config["work"]["trial"]), result["step"]
            self.live.setdefault(config.trial_id, {})[step] = score
            scores = self.known()
            for trial_id, live in self.live.items():
                scores[trial_id] = scores.get(trial_id, {}) | live
            # A trial that was resumed may have been further before.
            own = {at: value for at, value in scores.pop(config.trial_id).items() if at <= step}
            put_decision(config.trial_id, step, ends_early(self.settings, config.iterations, own, scores))
        return TrialScheduler.CONTINUE
