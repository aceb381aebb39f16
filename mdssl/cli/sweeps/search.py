"""``mdssl sweep search``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from mdssl.config.trial import ClusterSettings, check_mixture
from mdssl.sweep.settings import SweepSettings, check_axis

RANGES = (("lambda1", "0.8", "1", "0.02"), ("lambda2", "0", "0.4", "0.02"))


@dataclass(frozen=True, kw_only=True)
class Search(SweepSettings, ClusterSettings):
    methods: tuple[str, ...] = ("mdssl",)
    """Methods to search; with several, the method is one more setting to choose. simclr alone tunes the baseline."""
    mixtures: tuple[str, ...] = ()
    """Mixtures to choose from, each written cifar10+svhn; default: all domains together."""
    search: Literal["grid", "random", "optuna"] = "optuna"
    """grid (every combination of values) | random | optuna (multivariate TPE: chooses by validation scores so far).
    Methods without λ1 and λ2 are baselines, trained beside the search."""
    trials: int | None = 12
    """Trials of a search: those of its space that the storage already knows, from any sweep, count."""
    scheduler: Literal["none", "asha", "median"] = "asha"
    """Ends trials early by their validation scores: asha (asynchronous successive halving: only the best of those that
    reached a rung continue) | median (a trial ends if its best score is below the median of the others). A trial that
    ended early has a checkpoint, and a sweep without a scheduler trains it to the end."""

    def __post_init__(self) -> None:
        named = [domain for mixture in self.mixtures for domain in mixture.split("+")]
        if not self.domains and named:
            object.__setattr__(self, "domains", tuple(dict.fromkeys(named)))
        if self.search == "grid" and self.trials == Search.trials:
            object.__setattr__(self, "trials", None)
        super().__post_init__()
        check_axis("methods", self.methods)
        for mixture in self.mixtures:
            check_mixture(tuple(mixture.split("+")))

    @property
    def searched(self) -> list[dict]:
        mixtures = [tuple(mixture.split("+")) for mixture in self.mixtures] or [self.domains]
        return [{"method": method, "domains": mixture} for method in self.methods for mixture in mixtures]


def search(settings: Search) -> int:
    """Search: the best settings for a fraction of the grid, by validation scores on held-out training images.

    Chooses trials one by one with Optuna's TPE and ends those early that fall behind. What any sweep has trained of the
    same space counts, and the best are chosen without a look at a test label. docs/search.md says when to use what.

    Examples:
      mdssl sweep search
          preset quick: 12 trials over λ1 and λ2 on built-in domains, beside SimCLR and a random encoder

      mdssl sweep search --preset cifar --domains cifar10 svhn --range lambda2 0 0.4 0.02 \\
          --range learning_rate 0.5 8 log --range temperature 0.05 0.5 log --trials 60
          one GPU

    Run the same command again: it trains nothing twice, and continues where it stopped or prints the table.
    """
    if not settings.range and "mdssl" in settings.methods and settings.lambda1 == (1.0,) and settings.lambda2 == (0.1,):
        settings = replace(settings, range=RANGES)
    # Here, because --help should not wait for torch.
    from mdssl.sweep.launch import run_sweep

    baselines = [{"method": "random"}] + [{"method": "simclr"}] * ("simclr" not in settings.methods)
    return run_sweep("search", settings, [*baselines, *settings.searched])
