"""Schedule wsd: a longer trial continues from the stable part of a shorter one.

Before its decay, a trial does not depend on its number of iterations. At the start of the decay, it also saves its
checkpoint to ``stable/<stable_id>/`` of the storage, for all trials that differ from it only in ``iterations`` and
``decay_fraction``. A longer trial starts from the newest of these checkpoints that is not past the start of its decay.

Files are written atomically, and trials that save the same step write the same state, so no claim is needed.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import nn

from mdssl.config.methods import METHODS
from mdssl.config.trial import TrialConfig
from mdssl.pretrain import checkpoint
from mdssl.pretrain.checkpoint import LoopState
from mdssl.pretrain.stopping import Agreement
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import TRIALS, stable_dir_in, storage_of

log = logging.getLogger(__name__)


def shared_folder(trial_dir: Location, config: TrialConfig) -> Location | None:
    """Return the folder of checkpoints that trials share with ``config``; None if they cannot share any.

    This is so if the method has a schedule that depends on the iterations, as clusterings have, or if ``trial_dir`` is
    not in a storage.
    """
    method = METHODS[config.method]
    shares = config.schedule == "wsd" and method.trains and not method.finds_domains and config.stable_steps > 0
    if not shares or trial_dir.parent.name != TRIALS:
        return None
    return stable_dir_in(storage_of(trial_dir), config.stable_id)


def load_shared(
    folder: Location, config: TrialConfig, model: nn.Module, optimizer: torch.optim.Optimizer, agreement: Agreement
) -> LoopState | None:
    """Restore the newest shared checkpoint that is not past the decay of ``config``, in place; None if there is none.

    All workers restore the same one, even while another trial writes.
    """
    step = agreement.least(checkpoint.latest_step(folder, up_to=config.stable_steps))
    state = checkpoint.load_latest(folder, model, optimizer, step=step) if step else None
    if state and state.continued_from:
        log.info("%s continues from step %d of trial %s", config.trial_id, step, state.continued_from["trial_id"])
    return state


def save_shared(
    folder: Location, config: TrialConfig, model: nn.Module, optimizer: torch.optim.Optimizer, state: LoopState
) -> None:
    """Save the state at the start of the decay for longer trials, without its costs.

    A full or unreachable storage only gives a warning.
    """
    source = {"trial_id": config.trial_id, "step": state.step, "views": state.views}
    free = replace(state, seconds=0.0, gpu_seconds=0.0, score_seconds=0.0, started_at="", continued_from=source)
    try:
        checkpoint.write(folder, checkpoint.Snapshot(model, optimizer, free), free)
    except OSError as error:
        if not folder.may_come_back(error):
            raise
        log.warning("the stable part of trial %s could not be saved for longer ones: %s", config.trial_id, error)


def delete_shared(trial_dir: Location, config: TrialConfig) -> None:
    """Delete the shared checkpoints of the stable part of ``config``."""
    if folder := shared_folder(trial_dir, config):
        while step := checkpoint.latest_step(folder):
            (folder / checkpoint.name_of(step)).delete()
