"""``mdssl sweep clustering``."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Suppress

from mdssl.config.trial import ClusterSettings
from mdssl.sweep.settings import WithMoreMethods, check_axis


@dataclass(frozen=True, kw_only=True)
class Clustering(WithMoreMethods, ClusterSettings):
    own_axes = ("num_clusters", "warmup_iterations", "recluster_every", "epsilon", "outlier_rule")

    clusters: tuple[int, ...] = ()
    """Numbers K of pseudo-domains; default: as many as training domains."""
    warmups: tuple[int, ...] = ()
    """SimCLR steps before clustering; default: the preset's."""
    intervals: tuple[int, ...] = ()
    """Steps between two clusterings; default: the preset's."""
    epsilons: tuple[float, ...] = (1.0,)
    """Robust variant: ε of eq. 5 at the first clustering."""
    rules: tuple[Literal["farthest", "runner-up"], ...] = ("farthest",)
    """Robust variant: farthest (eq. 5 as printed) | runner-up (as the paper's prose)."""

    num_clusters: Annotated[int | None, Suppress] = None
    warmup_iterations: Annotated[int, Suppress] = ClusterSettings.warmup_iterations
    recluster_every: Annotated[int, Suppress] = ClusterSettings.recluster_every
    epsilon: Annotated[float, Suppress] = ClusterSettings.epsilon
    outlier_rule: Annotated[Literal["farthest", "runner-up"], Suppress] = ClusterSettings.outlier_rule

    def __post_init__(self) -> None:
        # ClusterSettings compares epsilon_final with epsilon.
        object.__setattr__(self, "epsilon", max(self.epsilons, default=self.epsilon))
        super().__post_init__()
        for axis in ("clusters", "warmups", "intervals"):
            check_axis(axis, getattr(self, axis) or (None,))
        for axis in ("epsilons", "rules"):
            check_axis(axis, getattr(self, axis))


def clustering(settings: Clustering) -> int:
    """Clustering schedules: MDSSL where nobody knows which domain an image is of (section 4, figures 4 and 5).

    After a warm-up as SimCLR on the union, K-Means finds pseudo-domains in the representations, and repeats this on a
    schedule. The grid is over K, warm-up and interval, and for the robust variant, which leaves out images that no
    cluster is sure of, over ε and the outlier rule. The baselines are a random encoder, SimCLR on the union (no
    domains), and MDSSL with the true domains. The paper reports the clustered methods above SimCLR, and on unseen
    domains above MDSSL with labels; trials/<id>/clusters.parquet explains yours: cluster sizes, purity, churn and share
    kept of every round.

    Examples:
      mdssl sweep clustering
          preset quick: 8 trials on built-in domains, minutes on 2 CPU cores

      mdssl sweep clustering --preset cifar --domains cifar10 svhn --clusters 2 4 --intervals 485 970 --epsilons 0.5 1
          4 clustered and 8 robust schedules with their baselines

    Run the same command again: it trains nothing twice, and continues where it stopped or prints the table.
    """
    # Here, because --help should not wait for torch.
    from mdssl.sweep.launch import run_sweep

    schedules = [
        {"num_clusters": clusters, "warmup_iterations": warmup, "recluster_every": interval}
        for clusters, warmup, interval in itertools.product(
            settings.clusters or (len(settings.domains),),
            settings.warmups or (settings.warmup_iterations,),
            settings.intervals or (settings.recluster_every,),
        )
    ]
    rejections = [
        # A small ε does not grow.
        {"epsilon": epsilon, "epsilon_final": min(epsilon, settings.epsilon_final), "outlier_rule": rule}
        for epsilon, rule in itertools.product(settings.epsilons, settings.rules)
    ]
    methods: list[str | dict] = ["random", "simclr", "mdssl", *settings.add_methods]
    for schedule in schedules:
        methods += [{"method": "mdssl-clustered", **schedule}]
        methods += [{"method": "mdssl-robust", **schedule, **rejection} for rejection in rejections]
    return run_sweep("clustering", settings, methods)
