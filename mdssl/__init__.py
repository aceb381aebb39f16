"""Multi-domain self-supervised learning: train encoders, score them, and sweep over their hyperparameters.

Names are imported when they are first used, so that ``import mdssl`` loads neither torch nor ray. `docs/api.md` shows
them in use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdssl.config.trial import TrialConfig
    from mdssl.leaderboard.board import read_leaderboard
    from mdssl.pretrain.encoder import load_encoder
    from mdssl.pretrain.loop import train
    from mdssl.pretrain.loss import mdssl_loss
    from mdssl.sweep.api import Sweep

__version__ = "0.1.0"
__all__ = ["Sweep", "TrialConfig", "load_encoder", "mdssl_loss", "read_leaderboard", "train"]

_PLACES = {
    "Sweep": ("mdssl.sweep.api", "Sweep"),
    "TrialConfig": ("mdssl.config.trial", "TrialConfig"),
    "load_encoder": ("mdssl.pretrain.encoder", "load_encoder"),
    "mdssl_loss": ("mdssl.pretrain.loss", "mdssl_loss"),
    "read_leaderboard": ("mdssl.leaderboard.board", "read_leaderboard"),
    "train": ("mdssl.pretrain.loop", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
