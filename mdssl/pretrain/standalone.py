"""``mdssl train``: one trial as a plain process, or as one of torchrun's."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from mdssl.config.presets import place_flags
from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.data.mixture import check_batch, fingerprint_of
from mdssl.data.remote import ensure_local
from mdssl.device import pick_device
from mdssl.errors import InputError
from mdssl.pretrain.loop import train
from mdssl.pretrain.pretrained import check_init_exists, complete
from mdssl.pretrain.progress import NonFiniteLossError, Progress, Validate
from mdssl.pretrain.stopping import StoppedError, sigterm_received
from mdssl.pretrain.trial_files import read_training
from mdssl.pretrain.watchdog import watchdog
from mdssl.storage.claim import POLL_SECONDS, Claim
from mdssl.storage.location import Location
from mdssl.storage.notes import tag_all
from mdssl.storage.retry import retrying
from mdssl.storage.trial_dir import stop_request, trial_dir_in
from mdssl.storage.trial_log import kept_log

_CLAIMED = "mdssl-claimed"
"""Key by which the first worker tells the others that it holds the claim."""


@retrying()
def train_standalone(
    config: TrialConfig,
    settings: RunSettings,
    *,
    data: str,
    storage: str,
    device: str,
    evaluate: Sequence[str] = (),
    validation: Callable[[Path, str], Validate] | None = None,
) -> None:
    """Train a trial and print where its files are.

    After SIGTERM, as from a batch system at its time limit or a machine that is reclaimed, it saves a checkpoint and
    ends. Under torchrun all workers do so as soon as one has the signal.

    Args:
        config: the trial; its ``data_fingerprint`` is filled in.
        data: folder or bucket of prepared datasets.
        storage: folder or bucket of results.
        device: cpu, cuda, or auto.
        evaluate: datasets for validation scores while training.
        validation: creates the validation from the data folder and the device, if ``evaluate`` is not empty.

    Raises:
        ValueError: invalid data or storage, a loss that became non-finite, or a trial that another process has taken
            over.
        SystemExit: 143, after SIGTERM; 1 where `mdssl stop` has stopped the trial.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    under_torchrun = "WORLD_SIZE" in os.environ
    is_first = int(os.environ.get("RANK", 0)) == 0
    if not is_first:
        logging.disable(logging.WARNING)
    device = pick_device(device)
    # Before the datasets, which may take long to download or to draw.
    check_init_exists(config)
    folder = ensure_local(data, list(dict.fromkeys([*config.domains, *evaluate])), progress=is_first)
    validate = validation(folder, device) if validation and evaluate else None
    datasets = [open_dataset(folder, name) for name in config.domains]
    check_batch(datasets, config.batch_per_domain)
    config = replace(config, data_fingerprint=fingerprint_of(datasets))
    config = complete(config, datasets[0].image_size if datasets else None)
    trial_dir = trial_dir_in(storage, config.trial_id)

    def tell(ended: dict[str, Any], *, was_there: bool) -> None:
        if not is_first:
            return
        how = f": {ended['step']} steps in {ended['train_seconds']:.0f} s"
        how = f" is already trained: {ended['step']} steps" if was_there else how
        print(f"trial {config.trial_id}{how}, encoder in {trial_dir}")
        labelled = any(dataset.is_labelled for dataset in datasets)
        words = f"mdssl probe {config.trial_id}{'' if labelled else ' --evaluate DATASET'}"
        print(f"to score it: {words}{place_flags(storage, data)}")

    claim = Claim(trial_dir, "mdssl train")
    there = read_training(trial_dir)
    if there and there["status"] == "finished":
        tell(there, was_there=True)
        return
    if stop_request(trial_dir).exists():
        raise InputError(
            f"trial {config.trial_id} was stopped by `mdssl stop`; after `mdssl retry {config.trial_id}"
            f"{place_flags(storage)}` the same command trains it further."
        )
    try:
        with claim:
            meeting = {}
            if under_torchrun:
                # The other workers wait here until the first has the claim, because init_process_group has a time-out.
                store, rank, world_size = next(rendezvous("env://"))
                meeting = {"store": store, "rank": rank, "world_size": world_size}
            if is_first:
                trial_dir.check_writable()
                claim.wait_aloud()
                tag_all(Location.of(storage), [config.trial_id], settings.tag)
                # The process that it waited for may have finished the trial.
                there = read_training(trial_dir)
                if under_torchrun:
                    store.set(_CLAIMED, claim.token)
            else:
                while not store.check([_CLAIMED]):
                    time.sleep(POLL_SECONDS)
            with (
                sigterm_received() as terminated,
                retrying(stop_requested=terminated),
                kept_log(trial_dir, "train", errors_only=not is_first),
                watchdog(60 * settings.hang_minutes) as beat,
            ):
                if under_torchrun:
                    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", **meeting)

                def report(progress: Progress) -> None:
                    beat()
                    if is_first:
                        _print_progress(progress)

                ended = train(
                    config,
                    data=folder,
                    trial_dir=trial_dir,
                    settings=settings,
                    device=device,
                    report=report,
                    stop_requested=lambda: terminated() or claim.stop_asked,
                    before_writing=claim.check,
                    validate=validate,
                )
    except StoppedError as stopped:
        try:
            on_request = stop_request(trial_dir).exists()
        except OSError:
            on_request = False  # the storage is away: it was SIGTERM
        if is_first:
            how = f"`mdssl retry {config.trial_id}{place_flags(storage)}` and then " if on_request else ""
            print(f"trial {config.trial_id} {stopped}; {how}the same command resumes it", flush=True)
        raise SystemExit(1 if on_request else 128 + signal.SIGTERM) from stopped
    except NonFiniteLossError as error:
        raise InputError(f"trial {config.trial_id} failed: {error}") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    tell(ended, was_there=there is not None and there["status"] == "finished")


def _print_progress(progress: Progress) -> None:
    score = "" if progress.val_linear_top1 is None else f"  validation {progress.val_linear_top1:.1f} %"
    print(
        f"step {progress.step}/{progress.iterations}  loss {progress.loss:.3f} = align {progress.alignment:.3f}, "
        f"within {progress.within:.3f}, across {progress.across:.3f}  lr {progress.learning_rate:.3g}  "
        f"{progress.views_per_second:,.0f} views/s  ETA {progress.eta_seconds:.0f} s{score}",
        flush=True,
    )
