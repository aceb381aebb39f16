"""The methods: one record each, which holds all properties of the method. `docs/extending.md` adds one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mdssl.config.encoders import RESNET_SETTINGS, TIMM_SETTINGS
from mdssl.errors import check_name

INITIAL_SETTINGS = ("method", "arch", *RESNET_SETTINGS, *TIMM_SETTINGS, "projection_dim", "seed")
"""Settings of an encoder before its first step. Nothing else can make two untrained encoders differ."""
PRETRAINED_SETTINGS = ("weights", "weights_fingerprint")
SCHEDULE_SETTINGS = ("num_clusters", "warmup_iterations", "recluster_every", "cluster_space", "cluster_normalized")
OUTLIER_SETTINGS = ("epsilon", "epsilon_final", "outlier_rule")
CLUSTER_SETTINGS = (*SCHEDULE_SETTINGS, *OUTLIER_SETTINGS)
OWN_SETTINGS = frozenset({*CLUSTER_SETTINGS, *PRETRAINED_SETTINGS, "sampling", "negative_weight"})
"""Settings that only some methods have; the record of a method lists its own."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """The properties of one method."""

    name: str
    """The name on the command line and in the leaderboard's column ``method``."""
    label: str
    """In legends and captions of figures."""
    color: str
    """In figures, as #RRGGBB."""
    description: str
    """How the encoder came about: a noun phrase, for model cards."""
    trains: bool = True
    """Whether it trains an encoder, and so has training domains and a training schedule."""
    weighs_domains: bool = True
    """Whether its loss has λ1 and λ2. Without them they are 1 and 0."""
    shuffles_domains: bool = False
    """Whether it deals the images of each batch to the domains at random, as many to each as it had."""
    settings: tuple[str, ...] = ()
    """The entries of `OWN_SETTINGS` that the method has; for a method that does not train, all its settings."""

    def has_setting(self, name: str) -> bool:
        """Whether the field ``name`` of `TrialConfig` can change an encoder of this method."""
        return name not in self._lacking if self.trains else name in self.settings

    @cached_property
    def _lacking(self) -> frozenset[str]:
        return OWN_SETTINGS.difference(self.settings)

    @property
    def weighs_negatives(self) -> bool:
        """Whether its loss is `mdssl.pretrain.loss.weighted_nt_xent`."""
        return "negative_weight" in self.settings

    @property
    def tells_domains_apart(self) -> bool:
        """Whether its loss depends on the domains of the images. Otherwise all images of a batch are one domain."""
        return self.weighs_domains or self.weighs_negatives

    @property
    def finds_domains(self) -> bool:
        """Whether it clusters the images instead of using the names of their domains."""
        return "num_clusters" in self.settings

    @property
    def rejects_outliers(self) -> bool:
        """Whether images without a clear cluster are left out of training (eq. 5)."""
        return "outlier_rule" in self.settings

    @property
    def loads_weights(self) -> bool:
        """Whether its encoder comes from a file that another program made."""
        return "weights" in self.settings


NEWER = "A newer mdssl may have it: upgrade to read its trials."
"""Hint on a name in a storage that this version does not know."""


class _Methods(dict[str, Method]):
    """Raises `InputError` for an unknown name, where a dict raises `KeyError`."""

    def __missing__(self, name: str) -> Method:
        check_name("method", name, self, NEWER)
        raise AssertionError


METHODS = _Methods(
    (method.name, method)
    for method in (
        Method(
            name="random",
            label="Random encoder",
            color="#999999",
            description="no training: its weights are the random initial weights of training",
            trains=False,
            weighs_domains=False,
            settings=INITIAL_SETTINGS,
        ),
        Method(
            name="pretrained",
            label="Pretrained elsewhere",
            color="#E69F00",
            description="training by another program; mdssl has loaded and scored it, without training",
            trains=False,
            weighs_domains=False,
            settings=("method", "arch", "stem", *TIMM_SETTINGS, *PRETRAINED_SETTINGS),
        ),
        Method(
            name="simclr",
            label="SimCLR, union",
            color="#56B4E9",
            description="SimCLR on the union of its training domains, treated as one domain",
            weighs_domains=False,
            settings=("sampling",),
        ),
        Method(
            name="simclr-weighted",
            label="SimCLR, weighted negatives",
            color="#882255",
            description="SimCLR with a smaller weight on negatives of other domains than the anchor's",
            weighs_domains=False,
            settings=("sampling", "negative_weight"),
        ),
        Method(
            name="mdssl",
            label="MDSSL",
            color="#D55E00",
            description="multi-domain self-supervised learning (MDSSL) with known domain labels",
            settings=("sampling",),
        ),
        Method(
            name="mdssl-shuffled",
            label="MDSSL, shuffled labels",
            color="#332288",
            description="MDSSL with domain labels that are shuffled within each batch, a control",
            shuffles_domains=True,
            settings=("sampling",),
        ),
        Method(
            name="mdssl-clustered",
            label="MDSSL, clustered",
            color="#009E73",
            description="MDSSL with domains that K-Means finds in the embeddings at intervals",
            settings=SCHEDULE_SETTINGS,
        ),
        Method(
            name="mdssl-robust",
            label="MDSSL, robust clustering",
            color="#CC79A7",
            description="MDSSL with domains that K-Means finds, without the images that have no clear cluster",
            settings=CLUSTER_SETTINGS,
        ),
    )
)
"""By name, in the order of tables and legends."""

UNTRAINED = tuple(name for name, method in METHODS.items() if not method.trains)
"""Methods that train nothing here, and so have no domains."""
CLUSTERED = tuple(name for name, method in METHODS.items() if method.finds_domains)
"""Methods that find their domains themselves."""
