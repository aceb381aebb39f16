"""``mdssl probe``: score one trained encoder in this process, without Ray."""

from __future__ import annotations

from dataclasses import fields

from mdssl.config.run import ProbeConfig, check_layers
from mdssl.data.dataset import open_dataset
from mdssl.data.local_copy import ensure_local
from mdssl.device import pick_device
from mdssl.errors import InputError
from mdssl.evaluate.artifacts import TrialArtifacts
from mdssl.evaluate.evaluate import check_scorable, encode_dataset, instability, score_dataset
from mdssl.leaderboard.board import read_rows, write_rows
from mdssl.pretrain.loop import train
from mdssl.pretrain.pretrained import pretrained_config
from mdssl.pretrain.trial_files import load_model, read_training
from mdssl.storage.claim import Claim, Owner
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying
from mdssl.sweep.grid import evaluation_fingerprint, has_score, labelled_domains
from mdssl.sweep.rows import finished_row, git_commit, images_of, merged
from mdssl.sweep.settings import check_axis
from mdssl.terminal import printable


@retrying()
def probe_standalone(settings) -> None:
    """Make the scores that ``settings`` (an `mdssl.cli.trials.Probe`) asks for, if the leaderboard lacks them.

    Raises:
        ValueError: the trial is not trained, or a dataset is not prepared or cannot be scored.
    """
    storage = Location.of(settings.storage)
    device = pick_device(settings.device)
    probe = ProbeConfig(**{field.name: getattr(settings, field.name) for field in fields(ProbeConfig)})
    check_layers(probe.features, bool(settings.weights))
    if settings.evaluate:
        check_axis("evaluate", settings.evaluate)
    if bool(settings.trial_id) == bool(settings.weights):
        raise InputError("give either a trial id, or --weights FILE for an encoder from elsewhere.")
    if settings.trial_id and settings.input_size is not None:
        raise InputError("input_size belongs to --weights; a trial's encoder takes images as they are prepared.")
    data = ensure_local(settings.data, settings.evaluate, progress=True)
    for name in settings.evaluate:
        check_scorable(open_dataset(data, name))
    trial_id = settings.trial_id or _take_in(settings, storage)
    rows = read_rows(storage, trial_id)
    trial_dir = storage / "trials" / trial_id
    config, model = load_model(trial_dir, device)
    names = settings.evaluate
    if not names:
        if not config.domains:
            raise InputError(f"trial {trial_id} was trained on nothing; name datasets to score with --evaluate.")
        ensure_local(settings.data, config.domains, progress=True)
        names, note = labelled_domains(settings.data, config.domains)
        if note:
            print(note)
    data = ensure_local(settings.data, names, progress=True)
    context = {"sweep": "", "preset": "", "git_commit": git_commit(), "ray_version": ""}
    artifacts = TrialArtifacts(trial_dir, config, model, data=settings.data, device=device)
    for name in names:
        data_fingerprint = evaluation_fingerprint(data, name)
        dataset, encoded, new, scores = open_dataset(data, name), None, [], []
        if has_score(rows, name, data_fingerprint, probe):
            print(f"{name}: already there")
        else:
            encoded = encode_dataset(model, dataset, layers=probe.features, device=device, input_size=config.input_size)
            scores = score_dataset(encoded, dataset, probe=probe, seed=config.seed)
            own = {"eval_dataset": name, "data_fingerprint": data_fingerprint, "images": images_of(dataset)}
            new = [
                finished_row(config, read_training(trial_dir), score | own, context=context, trial_dir=trial_dir)
                for score in scores
            ]
        with Claim(trial_dir, "mdssl probe") as claim:
            claim.wait(_say_who)
            if new:
                # Read anew: a sweep may have added rows of this trial while this score was made.
                rows = merged(read_rows(storage, config.trial_id), new)
                write_rows(storage, config.trial_id, rows)
            artifacts.add(dataset, encoded)
        for row, score in zip(new, scores, strict=True):
            unstable = f"; {said}" if (said := instability(score)) else ""
            numbers = f"top-1 {row['top1']:.1f}, kNN {row['knn_top1']:.1f}{unstable}"
            print(f"{name} ({row['features']}, {row['probe']}): {numbers}")
    with Claim(trial_dir, "mdssl probe") as claim:
        claim.wait(_say_who)
        artifacts.draw()


def _take_in(settings, storage: Location) -> str:
    """Make a trial of an encoder from elsewhere; its id."""
    config, found = pretrained_config(settings.weights, settings.input_size)
    print(printable(f"{config.arch} with {config.stem} stem: {found.source}"))
    if found.unmatched:
        more = f" and {len(found.unmatched) - 8} more" if len(found.unmatched) > 8 else ""
        print(printable(f"not used of it: {', '.join(found.unmatched[:8])}{more}"))
    if not settings.evaluate:
        raise InputError("an encoder from elsewhere has no domains of its own; name datasets with --evaluate.")
    storage.check_writable()
    trial_dir = storage / "trials" / config.trial_id
    with Claim(trial_dir, "mdssl probe") as claim:
        claim.wait(_say_who)
        train(config, data=settings.data, trial_dir=trial_dir, device="cpu")
    print(f"trial {config.trial_id}")
    return config.trial_id


def _say_who(owner: Owner) -> None:
    print(printable(f"waits for {owner}, who works on this trial"), flush=True)
