"""``mdssl probe``: score one trained encoder in this process, without Ray."""

from __future__ import annotations

from dataclasses import fields

from mdssl.config import ProbeConfig
from mdssl.data.prepare import ensure_builtin
from mdssl.data.prepared import open_dataset
from mdssl.errors import InputError
from mdssl.evaluate.evaluate import evaluate_dataset
from mdssl.pretrain.loop import pick_device
from mdssl.pretrain.trial_files import load_model, read_training
from mdssl.results.leaderboard import read_rows, write_rows
from mdssl.storage import Location
from mdssl.sweep.grid import evaluation_fingerprint, has_score
from mdssl.sweep.rows import finished_row, git_commit, merged


def probe_standalone(settings) -> None:
    """Make the scores that ``settings`` (an `mdssl.cli.Probe`) asks for and that the leaderboard does not have yet.

    Raises:
        ValueError: the trial is not trained, or a dataset is not prepared or cannot be scored.
    """
    storage = Location.of(settings.storage)
    rows = read_rows(storage, settings.trial_id)
    trial_dir = storage / "trials" / settings.trial_id
    device = pick_device(settings.device)
    config, model = load_model(trial_dir, device)
    names = settings.evaluate or config.domains
    if not names:
        raise InputError(f"trial {settings.trial_id} was trained on nothing; name datasets to score with --evaluate.")
    probe = ProbeConfig(**{field.name: getattr(settings, field.name) for field in fields(ProbeConfig)})
    ensure_builtin(settings.data, names)
    context = {"sweep": "", "preset": "", "git_commit": git_commit(), "ray_version": ""}
    for name in names:
        data_fingerprint = evaluation_fingerprint(settings.data, name)
        if has_score(rows, name, data_fingerprint, probe):
            print(f"{name}: already there")
            continue
        dataset = open_dataset(settings.data, name)
        scores = evaluate_dataset(model, dataset, layers=probe.features, probe=probe, device=device, seed=config.seed)
        own = {"eval_dataset": name, "data_fingerprint": data_fingerprint}
        new = [
            finished_row(config, probe, read_training(trial_dir), score | own, context=context, trial_dir=trial_dir)
            for score in scores
        ]
        # Read anew: a sweep may have added rows of this trial while this score was made.
        rows = merged(read_rows(storage, config.trial_id), new)
        write_rows(storage, config.trial_id, rows)
        for row in new:
            print(f"{name} ({row['features']}, {row['probe']}): top-1 {row['top1']:.1f}, kNN {row['knn_top1']:.1f}")
