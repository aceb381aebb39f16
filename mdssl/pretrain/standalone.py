"""``mdssl train``: one trial as a plain process, or as one of torchrun's."""

from __future__ import annotations

import logging
import os
from dataclasses import fields

import torch.distributed as dist

from mdssl.claim import Claim, Guard
from mdssl.config import TrialConfig
from mdssl.data.mixture import fingerprint
from mdssl.data.prepare import ensure_builtin
from mdssl.device import pick_device
from mdssl.errors import InputError
from mdssl.pretrain.loop import NonFiniteLossError, Progress, train
from mdssl.run_config import RunSettings
from mdssl.storage import Location


def train_standalone(settings) -> None:
    """Train the trial that ``settings`` (an `mdssl.cli.Train`) describes and say where its files are.

    Raises:
        ValueError: data or storage that cannot work, or a loss that became non-finite.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    under_torchrun = "WORLD_SIZE" in os.environ
    is_first = int(os.environ.get("RANK", 0)) == 0
    if not is_first:
        logging.disable(logging.WARNING)
    device = pick_device(settings.device)
    ensure_builtin(settings.data, settings.domains)
    values = {field.name: getattr(settings, field.name) for field in fields(TrialConfig)}
    config = TrialConfig(**values | {"data_fingerprint": fingerprint(settings.data, settings.domains)})
    trial_dir = Location.of(settings.storage) / "trials" / config.trial_id
    trial_dir.check_writable()
    claim = Claim(trial_dir, "mdssl train")
    guard = Guard(trial_dir, claim.token)

    def report(progress: Progress) -> None:
        # Only the first process writes. When it stops, torchrun ends the others.
        if is_first:
            guard()
            _print_progress(progress)

    try:
        if is_first:
            claim.wait(lambda owner: print(f"waits for {owner}, who works on trial {config.trial_id}", flush=True))
        if under_torchrun:
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        ended = train(
            config,
            data=settings.data,
            trial_dir=trial_dir,
            settings=RunSettings(**{field.name: getattr(settings, field.name) for field in fields(RunSettings)}),
            device=device,
            report=report,
        )
    except NonFiniteLossError as error:
        raise InputError(f"trial {config.trial_id} failed: {error}") from error
    finally:
        claim.release()
        if dist.is_initialized():
            dist.destroy_process_group()
    if is_first:
        print(
            f"trial {config.trial_id}: {ended['step']} steps in {ended['train_seconds']:.0f} s, encoder in {trial_dir}"
        )
        print(f"score it: mdssl probe {config.trial_id}")


def _print_progress(progress: Progress) -> None:
    print(
        f"step {progress.step}/{progress.iterations}  loss {progress.loss:.3f} = align {progress.alignment:.3f}, "
        f"within {progress.within:.3f}, across {progress.across:.3f}  lr {progress.learning_rate:.3g}  "
        f"{progress.views_per_second:,.0f} views/s  ETA {progress.eta_seconds:.0f} s",
        flush=True,
    )
