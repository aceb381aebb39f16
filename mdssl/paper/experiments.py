"""Every experiment of the paper as trials; ``experiments.toml`` lists them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from mdssl.config.methods import METHODS
from mdssl.errors import check_name


@dataclass(frozen=True, kw_only=True)
class PaperTrial:
    """One encoder of the paper."""

    method: str
    """simclr (one domain: the single-domain baseline; several: their union) | mdssl | mdssl-clustered | mdssl-robust |
    pretrained (nothing is trained)."""
    domains: tuple[str, ...] = ()
    """To train on, in the paper's order; none for a pretrained encoder."""
    lambda1: float = 1.0
    """Weight of the within-domain term (eq. 3)."""
    lambda2: float = 0.0
    """Weight of the across-domain term (eq. 4)."""

    @property
    def num_clusters(self) -> int | None:
        """Pseudo-domains M of the clustered methods: as many as there are domains (section 4)."""
        return len(self.domains) if METHODS[self.method].finds_domains else None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, as one of the methods of `mdssl.sweep.grid.trials`."""
        if self.method == "pretrained":
            return {"method": self.method}
        own = {"method": self.method, "domains": self.domains, "lambda1": self.lambda1, "lambda2": self.lambda2}
        # The schedule of clustering and ε are settings of the recipe: section 4's are the preset's.
        return own | ({"num_clusters": self.num_clusters} if self.num_clusters else {})

    def __str__(self) -> str:
        words = [self.method, "+".join(self.domains) or "(pretrained weights)"]
        if METHODS[self.method].weighs_domains:
            words += [f"λ1={self.lambda1:g}", f"λ2={self.lambda2:g}"]
        return " ".join(words + ([f"K={self.num_clusters}"] if self.num_clusters else []))


@dataclass(frozen=True, kw_only=True)
class PaperExperiment:
    """One table or figure of the paper."""

    title: str
    """A short description."""
    section: str
    """Where the paper describes it."""
    trials: tuple[PaperTrial, ...]
    """The encoders to train, in the order of the paper's rows."""
    evaluate: tuple[str, ...]
    """Datasets that its encoders are scored on, or whose representations it shows, in the order of its columns."""
    reports: str = "top1"
    """top1 | resources (hours, disk, GPUs) | hours | embedding (t-SNE) | similarity (class-averaged heat maps)."""
    figure: str = ""
    """For a figure: the prefix of the names of our figures that correspond to it (`mdssl.figures.gallery`)."""
    notes: tuple[str, ...] = ()
    """Missing or contradictory statements of the paper, and our choices."""

    @property
    def domains(self) -> tuple[str, ...]:
        """All datasets that it trains on, each once."""
        return tuple(dict.fromkeys(name for trial in self.trials for name in trial.domains))


def _trial(text: str) -> PaperTrial:
    method, *rest = text.split()
    domains: dict[str, Any] = {"domains": tuple(rest[0].split("+"))} if rest else {}
    weights: dict[str, Any] = dict(zip(("lambda1", "lambda2"), map(float, rest[1:]), strict=False))
    return PaperTrial(method=method, **domains, **weights)


def _experiment(table: dict[str, Any]) -> PaperExperiment:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    values["trials"] = tuple(map(_trial, table["trials"]))
    return PaperExperiment(**values)


def _experiments() -> dict[str, PaperExperiment]:
    tables = tomllib.loads((files(__package__) / "experiments.toml").read_text(encoding="utf-8"))
    return {name: _experiment(table) for name, table in tables.items()}


EXPERIMENTS = _experiments()
"""By the name of the table or figure."""


def experiment(name: str) -> PaperExperiment:
    """Return the table or figure called ``name``.

    Raises:
        ValueError: there is none of that name.
    """
    check_name("experiment of the paper", name, EXPERIMENTS)
    return EXPERIMENTS[name]
