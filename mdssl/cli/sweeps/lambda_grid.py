"""``mdssl sweep lambda-grid``."""

from __future__ import annotations

from dataclasses import dataclass

from mdssl.sweep.settings import WithMoreMethods


@dataclass(frozen=True, kw_only=True)
class LambdaGrid(WithMoreMethods):
    lambda1: tuple[float, ...] = (1.0, 0.95)
    """Weights of the within-domain term, each in (0, 1]. The paper's figures label this axis -lambda1."""
    lambda2: tuple[float, ...] = (0.0, 0.1, 0.2)
    """Weights of the across-domain term, each at least 0; useful up to about 0.2."""


def lambda_grid(settings: LambdaGrid) -> int:
    """λ1 × λ2: how strongly to push apart images within a domain, and across domains (figure 3, table 1 of the paper).

    Trains one MDSSL encoder for each pair of --lambda1 and --lambda2, and two baselines: SimCLR on the union of all
    domains, and a random encoder as the floor. Expect λ2 a little above 0 to help the most.

    Examples:
      mdssl sweep lambda-grid
          preset quick: 8 trials on built-in domains, minutes on 2 CPU cores

      mdssl sweep lambda-grid --preset paper --domains cifar10 svhn --evaluate cifar10 svhn stl10
          ResNet-50, 48,000 steps a trial: GPU-days

    Run the same command again: it trains nothing twice, and continues where it stopped or prints the table.
    """
    # Here, because --help should not wait for torch.
    from mdssl.sweep.launch import run_sweep

    return run_sweep("lambda_grid", settings, ["random", "simclr", "mdssl", *settings.add_methods])
