"""Load the encoder that a command names: a trial, or a file of pretrained weights."""

from __future__ import annotations

from mdssl.config.methods import METHODS
from mdssl.config.probe import check_layers
from mdssl.config.trial import TrialConfig, check_trial_id
from mdssl.errors import InputError
from mdssl.pretrain.model import Model
from mdssl.pretrain.pretrained import pretrained_model
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.trial_dir import trial_dir_in


def open_encoder(
    storage: str,
    trial_id: str = "",
    weights: str = "",
    *,
    layer: str = "encoder",
    input_size: int | None = None,
    device: str = "cpu",
) -> tuple[TrialConfig, Model]:
    """Load the encoder of ``trial_id``, or of the file ``weights``, in evaluation mode.

    Args:
        layer: the features to compute later; a pretrained encoder has no projection head.
        input_size: pixels that images are resized to for ``weights``.

    Raises:
        ValueError: both or none of ``trial_id`` and ``weights`` are given; the encoder or its layer does not exist.
    """
    if bool(trial_id) == bool(weights):
        raise InputError("give either TRIAL_ID, or --weights FILE for pretrained weights.")
    if trial_id and input_size is not None:
        raise InputError("--input-size requires --weights; a trial's encoder has its own input size.")
    if trial_id:
        check_trial_id(trial_id)
        config, model = load_model(trial_dir_in(storage, trial_id), device)
    else:
        config, model = pretrained_model(weights, input_size)
        model = model.to(device)
    check_layers((layer,), METHODS[config.method].loads_weights)
    return config, model
