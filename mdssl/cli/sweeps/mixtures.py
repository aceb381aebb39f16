"""``mdssl sweep mixtures``."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from mdssl.config.trial import check_mixture
from mdssl.errors import InputError
from mdssl.sweep.settings import WithMoreMethods


@dataclass(frozen=True, kw_only=True)
class Mixtures(WithMoreMethods):
    mixtures: tuple[str, ...] = ()
    """These mixtures, each written cifar10+svhn. Without --domains, those are the domains of these."""
    subsets: tuple[int, ...] = ()
    """All mixtures of this many of --domains."""
    growing: bool = False
    """--domains one by one: first two, then three, …. In the order given; the default where neither --mixtures nor
    --subsets is given."""
    singles: bool = True
    """Beside them, each domain alone; --no-singles leaves those out."""
    equal_compute: bool = False
    """Give each domain alone as many images in a step as a mixture has. It is then trained for each number of domains
    of the mixtures that it is in."""

    def __post_init__(self) -> None:
        if not self.domains:
            named = [domain for mixture in self.mixtures for domain in mixture.split("+")]
            object.__setattr__(self, "domains", tuple(dict.fromkeys(named)))
        super().__post_init__()
        for size in self.subsets:
            if not 2 <= size <= len(self.domains):
                raise InputError(
                    f"subsets has {size}; it must be at least 2 and at most the number of domains, "
                    f"{len(self.domains)}. Each domain alone is trained without --no-singles."
                )
        for mixture in self.mixtures:
            check_mixture(tuple(mixture.split("+")))
            if "" in mixture.split("+") or "+" not in mixture:
                raise InputError(
                    f"mixture {mixture!r} is not two domains or more, joined by '+', such as cifar10+svhn."
                )
        if self.equal_compute and (not self.singles or "batch_per_domain" in self.grid_axes):
            raise InputError(
                "--equal-compute sets the batch of each domain alone; it cannot be combined with --no-singles or with "
                "--grid batch_per_domain."
            )
        if not self.all_mixtures:
            raise InputError(f"domains are {'+'.join(self.domains)!r}; mixtures need two or more. Add --domains.")

    @property
    def all_mixtures(self) -> tuple[tuple[str, ...], ...]:
        """The mixtures of two domains or more, each once, in the order of the flags."""
        found = [tuple(mixture.split("+")) for mixture in self.mixtures]
        for size in self.subsets:
            found += itertools.combinations(self.domains, size)
        if self.growing or not found:
            found += [self.domains[:size] for size in range(2, len(self.domains) + 1)]
        return tuple(dict.fromkeys(found))

    def batches(self, domain: str) -> list[dict[str, int]]:
        """The settings of each trial of ``domain`` alone that differ from those of the sweep."""
        if not self.equal_compute:
            return [{}]
        sizes = {len(mixture) for mixture in self.all_mixtures if domain in mixture}
        return [{"batch_per_domain": size * self.batch_per_domain} for size in sorted(sizes)]


def mixtures(settings: Mixtures) -> int:
    """Mixtures: which domains to train on together, and what one more domain costs or gains (tables 1 and 3, figure 2).

    Trains for each mixture one MDSSL encoder at each pair of --lambda1 and --lambda2 and SimCLR on its union; for each
    domain alone SimCLR, unless --no-singles is given; and scores a random encoder as the floor. A mixture of K domains
    has K times the images of a domain alone in a step; --equal-compute gives the domain alone as many. All are
    scored on every dataset of --evaluate, so that each mixture has seen and unseen domains. The paper reports that each
    further domain helps (figure 2).

    Examples:
      mdssl sweep mixtures
          preset quick: built-in domains one by one, 8 trials, minutes on a CPU

      mdssl sweep mixtures --preset cifar --domains cifar10 svhn stl10 cifar100 --subsets 2 3
          all 6 pairs and 4 triples, each with its union baseline, and 4 single domains: 25 trials

      mdssl sweep mixtures --preset paper --mixtures cifar10+stl10+svhn cifar100+dtd+tiny-imagenet --no-singles
          just these

    Run the same command again: it trains nothing twice, and continues where it stopped or prints the table.
    """
    # Here, because --help should not wait for torch.
    from mdssl.sweep.launch import run_sweep

    methods: list[str | dict] = ["random"]
    if settings.singles:
        alone = dict.fromkeys(domain for mixture in settings.all_mixtures for domain in mixture)
        methods += [
            {"method": "simclr", "domains": (domain,)} | own for domain in alone for own in settings.batches(domain)
        ]
    for mixture in settings.all_mixtures:
        methods += [{"method": method, "domains": mixture} for method in ("simclr", "mdssl", *settings.add_methods)]
    return run_sweep("mixtures", settings, methods)
