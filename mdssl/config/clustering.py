"""The settings of the methods that find their domains by clustering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mdssl.config.field_types import check_types
from mdssl.errors import check_number


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """How the clustered methods find their domains. The defaults are the paper's (section 4)."""

    num_clusters: int | None = None
    """Pseudo-domains K; default: as many as training domains."""
    warmup_iterations: int = 480
    """Steps of SimCLR on the union before the first clustering."""
    recluster_every: int = 2_400
    """Steps between two clusterings."""
    cluster_space: Literal["projection", "encoder"] = "projection"
    """Representations to cluster: projection (the representations that the loss compares) | encoder (the features)."""
    cluster_normalized: bool = True
    """Whether to l2-normalize them first, as in the loss."""
    epsilon: float = 1.0
    """mdssl-robust: ε of eq. 5 at the first clustering. A larger one leaves out more images, 0 leaves out none."""
    epsilon_final: float = 0.01
    """mdssl-robust: ε at the last clustering; it decays exponentially from one to the other."""
    outlier_rule: Literal["farthest", "runner-up"] = "farthest"
    """mdssl-robust: which distances eq. 5 divides by that to the nearest centroid: farthest (as printed) | runner-up
    (as the paper's prose)."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.num_clusters is not None:
            check_number("num_clusters", self.num_clusters, low=1)
        check_number("warmup_iterations", self.warmup_iterations, low=0)
        check_number("recluster_every", self.recluster_every, low=1)
        check_number("epsilon", self.epsilon, low=0)
        if self.epsilon > 0:
            check_number("epsilon_final", self.epsilon_final, low=0, high=self.epsilon, hint="It decays from epsilon.")
