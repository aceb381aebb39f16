"""``mdssl probe``: score one trained encoder in this process, without Ray."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdssl.config.encoders import is_timm
from mdssl.config.methods import METHODS
from mdssl.config.probe import ProbeConfig, check_layers
from mdssl.config.trial import TrialConfig, check_trial_id
from mdssl.data.dataset import Dataset, open_dataset
from mdssl.data.remote import ensure_local
from mdssl.device import pick_device
from mdssl.errors import InputError, some_of
from mdssl.evaluate.artifacts import TrialArtifacts
from mdssl.evaluate.evaluate import Encoded, check_scorable, encode_dataset, instability, score_dataset
from mdssl.evaluate.validation import is_validatable
from mdssl.leaderboard.board import read_rows, write_rows
from mdssl.leaderboard.columns import Row
from mdssl.pretrain.loop import train
from mdssl.pretrain.pretrained import pretrained_config
from mdssl.pretrain.trial_files import load_model, read_training
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.sweep.grid import evaluation_fingerprint, has_score, labelled_domains, usable_rows
from mdssl.sweep.settings import check_axis
from mdssl.terminal import printable
from mdssl.trials.rows import Context, finished_row, git_commit, images_of, merged


@retrying()
def probe_standalone(
    probe: ProbeConfig,
    *,
    trial_id: str = "",
    weights: str = "",
    input_size: int | None = None,
    arch: str = "",
    evaluate: Sequence[str] = (),
    data: str,
    storage: str,
    device: str = "auto",
) -> None:
    """Make the scores of an encoder that the leaderboard lacks, validation scores included, and print them.

    Args:
        trial_id: the encoder: a trained trial.
        weights: instead of a trial: a file of pretrained weights.
        input_size: with ``weights``: pixels that images are resized to.
        arch: with ``weights``: see `mdssl.pretrain.pretrained.pretrained_config`.
        evaluate: prepared datasets; default: those of the trial's domains that have labels.

    Raises:
        ValueError: the trial is not trained, or a dataset is not prepared or cannot be scored.
    """
    results = Location.of(storage)
    device = pick_device(device)
    if trial_id:
        check_trial_id(trial_id)
    check_layers(probe.features, bool(weights))
    if evaluate:
        check_axis("evaluate", evaluate)
    folder = ensure_local(data, evaluate, progress=True)
    for name in evaluate:
        check_scorable(open_dataset(folder, name))
    if weights:
        trial_id = _trial_of_weights(weights, input_size, arch, evaluate, folder, results)
    trial_dir = trial_dir_in(results, trial_id)
    config, model = load_model(trial_dir, device)
    check_layers(probe.features, METHODS[config.method].loads_weights)
    if not evaluate:
        if not config.domains:
            raise InputError(f"trial {trial_id} has no training domains; name datasets to score with --evaluate.")
        ensure_local(data, config.domains, progress=True)
        evaluate, note = labelled_domains(data, config.domains)
        if note:
            print(note)
    rows = read_rows(results, trial_id)
    artifacts = TrialArtifacts(trial_dir, config, model, data=data, device=device)
    if probe.probe == "finetune":
        # It takes a while, and says how far it is.
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in evaluate:
        dataset, fingerprint = open_dataset(folder, name), evaluation_fingerprint(folder, name)
        encoded: Encoded | None = None
        new: list[tuple[Row, str]] = []
        found: list[dict[str, Any]] = []
        if has_score(usable_rows(rows, needs_validation=is_validatable(dataset)), name, fingerprint, probe):
            print(f"{name}: scored already")
        else:
            encoded = encode_dataset(model, dataset, layers=probe.features, device=device, input_size=config.input_size)
            found = score_dataset(
                encoded, dataset, probe=probe, seed=config.seed, model=model, input_size=config.input_size
            )
            new = _rows(config, dataset, found, fingerprint, trial_dir)
        with Claim(trial_dir, "mdssl probe") as claim:
            claim.wait_aloud()
            if new:
                # Read again: a sweep may have added rows of this trial while this score was made.
                write_rows(results, trial_id, merged(read_rows(results, trial_id), [row for row, _ in new]))
            artifacts.add(dataset, encoded)
            if found:
                artifacts.add_confusions(dataset, found)
        for row, unstable in new:
            sd = f" ± {row['top1_sd']:.1f}" if row["top1_sd"] is not None else ""
            numbers = f"top-1 {row['top1']:.1f}{sd}, kNN {row['knn_top1']:.1f}{unstable and f'; {unstable}'}"
            print(f"{name} ({row['features']}, {row['probe']}): {numbers}")
    with Claim(trial_dir, "mdssl probe") as claim:
        claim.wait_aloud()
        artifacts.draw()


def _rows(
    config: TrialConfig, dataset: Dataset, found: list[dict[str, Any]], fingerprint: str, trial_dir: Location
) -> list[tuple[Row, str]]:
    """The leaderboard's rows of scores, each with what makes it unstable (empty if nothing does)."""
    context: Context = {"sweep": "", "preset": "", "git_commit": git_commit(), "ray_version": ""}
    own = {"eval_dataset": dataset.name, "data_fingerprint": fingerprint, "images": images_of(dataset)}
    training = read_training(trial_dir) or {}
    return [
        (finished_row(config, training, score | own, context=context, trial_dir=trial_dir), instability(score))
        for score in found
    ]


def _trial_of_weights(
    file: str, input_size: int | None, arch: str, evaluate: Sequence[str], data: Path, results: Location
) -> str:
    """Make a trial of pretrained weights; its id."""
    config, found = pretrained_config(file, input_size, arch)
    stem = "" if is_timm(config.arch) else f" with {config.stem} stem"
    print(printable(f"{config.arch}{stem}: {found.source}"))
    if found.unmatched:
        print(printable(f"unused tensors: {some_of(found.unmatched, 8)}"))
    if not evaluate:
        raise InputError("a pretrained encoder has no training domains; name datasets with --evaluate.")
    results.check_writable()
    trial_dir = trial_dir_in(results, config.trial_id)
    with Claim(trial_dir, "mdssl probe") as claim:
        claim.wait_aloud()
        train(config, data=data, trial_dir=trial_dir, device="cpu")
    print(f"trial {config.trial_id}")
    return config.trial_id
