"""``mdssl train``: one trial as a plain process, or as one of torchrun's."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import fields

import torch.distributed as dist

from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.data.mixture import check_batch, fingerprint_of
from mdssl.data.remote import ensure_local
from mdssl.device import pick_device
from mdssl.errors import InputError
from mdssl.pretrain.loop import train
from mdssl.pretrain.progress import NonFiniteLossError, Progress
from mdssl.pretrain.stopping import StoppedError, sigterm_received
from mdssl.pretrain.trial_files import read_training
from mdssl.pretrain.watchdog import watchdog
from mdssl.storage.claim import Claim, Owner
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying
from mdssl.storage.trial_log import kept_log
from mdssl.terminal import printable


@retrying()
def train_standalone(settings) -> None:
    """Train the trial that ``settings`` (an `mdssl.cli.trials.Train`) describes and say where its files are.

    After SIGTERM, as from a batch system whose time is up or a machine that is taken away, it saves a checkpoint and
    ends. Under torchrun all workers do so as soon as one has the signal.

    Raises:
        ValueError: data or storage that cannot work, a loss that became non-finite, or a trial that another process has
            taken over.
        SystemExit: 143, after SIGTERM.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    under_torchrun = "WORLD_SIZE" in os.environ
    is_first = int(os.environ.get("RANK", 0)) == 0
    if not is_first:
        logging.disable(logging.WARNING)
    device = pick_device(settings.device)
    data = ensure_local(settings.data, settings.domains, progress=is_first)
    values = {field.name: getattr(settings, field.name) for field in fields(TrialConfig)}
    datasets = [open_dataset(data, name) for name in settings.domains]
    check_batch(datasets, settings.batch_per_domain)
    config = TrialConfig(**values | {"data_fingerprint": fingerprint_of(datasets)})
    trial_dir = Location.of(settings.storage) / "trials" / config.trial_id
    claim = Claim(trial_dir, "mdssl train")
    run_settings = RunSettings(**{field.name: getattr(settings, field.name) for field in fields(RunSettings)})
    there = read_training(trial_dir)
    if there and there["status"] == "finished":
        if is_first:
            print(f"trial {config.trial_id} is already there: {there['step']} steps, encoder in {trial_dir}")
            print(f"score it: mdssl probe {config.trial_id}")
        return
    try:
        if is_first:
            trial_dir.check_writable()
            claim.wait(lambda owner: _say_who(owner, config.trial_id))
        with (
            sigterm_received() as stop_requested,
            kept_log(trial_dir, "train", errors_only=not is_first),
            watchdog(60 * run_settings.hang_minutes) as beat,
        ):
            if under_torchrun:
                dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")

            def report(progress: Progress) -> None:
                beat()
                if is_first:
                    _print_progress(progress)

            ended = train(
                config,
                data=data,
                trial_dir=trial_dir,
                settings=run_settings,
                device=device,
                report=report,
                stop_requested=stop_requested,
                before_writing=claim.check,
            )
    except StoppedError as stopped:
        if is_first:
            print(f"trial {config.trial_id} {stopped}; the same command goes on from there", flush=True)
        raise SystemExit(128 + signal.SIGTERM) from stopped
    except NonFiniteLossError as error:
        raise InputError(f"trial {config.trial_id} failed: {error}") from error
    finally:
        try:
            claim.release()
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
    if is_first:
        print(
            f"trial {config.trial_id}: {ended['step']} steps in {ended['train_seconds']:.0f} s, encoder in {trial_dir}"
        )
        labelled = any(open_dataset(data, name).is_labelled for name in config.domains)
        print(f"score it: mdssl probe {config.trial_id}{'' if labelled else ' --evaluate DATASET'}")


def _say_who(owner: Owner, trial_id: str) -> None:
    print(printable(f"waits for {owner}, which works on trial {trial_id}"), flush=True)


def _print_progress(progress: Progress) -> None:
    print(
        f"step {progress.step}/{progress.iterations}  loss {progress.loss:.3f} = align {progress.alignment:.3f}, "
        f"within {progress.within:.3f}, across {progress.across:.3f}  lr {progress.learning_rate:.3g}  "
        f"{progress.views_per_second:,.0f} views/s  ETA {progress.eta_seconds:.0f} s",
        flush=True,
    )
