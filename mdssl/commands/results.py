"""Commands that read results: ``mdssl leaderboard``.

Imports of torch and what needs it stay inside the functions: ``--help`` should not wait for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from mdssl.commands.places import STORAGE


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    method: tuple[str, ...] = ()
    """Only these methods."""
    train_mixture: tuple[str, ...] = ()
    """Only these training mixtures, written cifar10+svhn."""
    evaluate: tuple[str, ...] = ()
    """Only these evaluation datasets."""
    probe: str | None = None
    """Scores of this probe; default: of each that has been run."""
    features: str = "encoder"
    """Scores of this layer: encoder | projection."""
    compact: bool = False
    """First copy all rows into one file, leaderboard-compacted.parquet, from which thousands of trials are read in a
    moment. The files of the trials stay the truth: what changes later is still read from them."""
    storage: str = STORAGE
    """Folder or bucket of results (or set MDSSL_STORAGE)."""


def leaderboard(settings: Leaderboard) -> None:
    """Print what storage holds: for each training mixture and probe a table, one row a trial, top-1 in percent.

    Examples:
      mdssl leaderboard --method mdssl simclr --evaluate cifar10
      mdssl leaderboard --compact
    """
    from mdssl.results.compacted import compact
    from mdssl.results.table import print_leaderboard

    if settings.compact:
        print(compact(settings.storage))
    print_leaderboard(
        settings.storage,
        method=settings.method,
        train_mixture=settings.train_mixture,
        evaluate=settings.evaluate,
        probe=settings.probe,
        features=settings.features,
    )
