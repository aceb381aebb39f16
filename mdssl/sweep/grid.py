"""The trials of a sweep, from its settings, and the remaining work of each, from the storage."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypedDict

from mdssl.config.methods import METHODS
from mdssl.config.probe import ProbeConfig
from mdssl.config.run import check_gradient_caching
from mdssl.config.trial import TrialConfig, check_precision
from mdssl.data.dataset import open_dataset
from mdssl.data.mixture import check_batch, fingerprint, image_size_of
from mdssl.data.remote import ensure_local
from mdssl.errors import InputError
from mdssl.evaluate.evaluate import check_scorable
from mdssl.evaluate.validation import check_validatable
from mdssl.leaderboard.board import read_rows_of
from mdssl.leaderboard.columns import Row
from mdssl.pretrain.pretrained import PUBLISHED, complete, pretrained_config, start_fingerprint, starts_of
from mdssl.pretrain.trial_files import read_training
from mdssl.storage.claim import Owner
from mdssl.storage.location import Location
from mdssl.storage.retry import in_threads
from mdssl.storage.trial_dir import TRIALS, stop_request, trial_dir_in
from mdssl.sweep.settings import SweepSettings
from mdssl.trials.describe import State


class WorkValues(TypedDict):
    """A `Work` as Tune sends it to a trial."""

    trial: dict[str, Any]
    missing: list[str]
    tried: list[str]
    dead: dict[str, Any] | None
    may_end_early: bool


@dataclass(frozen=True)
class Work:
    """One trial of a sweep and its remaining work.

    Attributes:
        config: the trial.
        state: queued (work is left), finished, failed (trained again only with --retry-failed) or stopped (ended early,
            and this sweep does not train it to the end).
        to_do: of a queued trial: train, resume (from a checkpoint) or evaluate (it is trained and lacks scores).
        missing: evaluation datasets without scores.
        error: the error of a failed trial.
        tried: end times, ISO 8601, of the failures that the plan has taken into account; a later one is new.
        dead: the owner of the trial's claim, if it was found dead.
        may_end_early: whether a scheduler may end its training.
        on_request: whether `mdssl stop` stopped it: then it stays so until `mdssl retry`.
    """

    config: TrialConfig
    state: State
    missing: tuple[str, ...]
    to_do: Literal["train", "resume", "evaluate"] | None = None
    error: str = ""
    tried: tuple[str, ...] = ()
    dead: Owner | None = None
    may_end_early: bool = False
    on_request: bool = False

    @property
    def is_left(self) -> bool:
        return self.state == "queued"

    def __str__(self) -> str:
        return f"{self.state} to {self.to_do}" if self.to_do else f"{self.state}{' on request' * self.on_request}"

    def to_dict(self) -> WorkValues:
        """Convert to plain values, which Tune sends to its processes."""
        return {
            "trial": self.config.to_dict(),
            "missing": list(self.missing),
            "tried": list(self.tried),
            "dead": asdict(self.dead) if self.dead else None,
            "may_end_early": self.may_end_early,
        }


def trials(settings: SweepSettings, methods: Sequence[dict[str, Any]]) -> list[TrialConfig]:
    """One trial for each pretrained encoder, also as the ``init`` of others, and each seed, temperature, point of
    ``--grid`` and entry of ``methods``; equal trials are listed once.

    Args:
        settings: settings that all trials share.
        methods: settings that differ, e.g. ``{"method": "mdssl", "lambda1": 0.9, "lambda2": 0.1}``; with ``domains``,
            if they are not those of ``settings``.

    Raises:
        InputError: a domain is not prepared or has too few images, a setting is not allowed, or a file of weights
            cannot be used.
    """
    make, grid = trial_maker(settings), settings.grid_axes
    arch = dict.fromkeys(PUBLISHED, "" if "arch" in grid else settings.arch)
    pretrained = [pretrained_config(file, settings.input_size, arch.get(file, ""))[0] for file in settings.pretrained]
    if len(each_once(pretrained)) < len(pretrained):
        raise InputError(f"two of the files {', '.join(settings.pretrained)} contain the same weights; give each once.")
    configs = []
    for seed, temperature, *point in itertools.product(settings.seeds, settings.temperature, *grid.values()):
        shared = dict(zip(grid, point, strict=True)) | {"temperature": temperature, "seed": seed}
        configs += [make(shared | method) for method in methods]
    return each_once([*pretrained, *starts_of(configs), *configs])


def each_once(configs: Iterable[TrialConfig]) -> list[TrialConfig]:
    """``configs`` without repeated trials."""
    return list({config.trial_id: config for config in configs}.values())


def trial_maker(settings: SweepSettings) -> Callable[[Mapping[str, Any]], TrialConfig]:
    """A function that makes a trial of ``settings`` and of the values of those that vary, the method among them."""

    @cache
    def images_of(domains: tuple[str, ...], batch_per_domain: int) -> str:
        data = ensure_local(settings.data, domains)
        check_batch([open_dataset(data, name) for name in domains], batch_per_domain)
        return fingerprint(data, domains)

    size_of = cache(lambda domains: image_size_of(ensure_local(settings.data, domains), domains))
    shared = settings.trial_settings | {"domains": settings.domains, "seed": settings.seeds[0]}
    fingerprint_of_start = cache(start_fingerprint)

    def make(values: Mapping[str, Any]) -> TrialConfig:
        own = shared | dict(values)
        # An untrained encoder is one for the images that others train on.
        size = size_of(tuple(own["domains"]))
        if not METHODS[own["method"]].trains:
            own |= {"domains": (), "init": "random"}
        config = TrialConfig(**own)
        if config.domains:
            check_gradient_caching(config, settings)
        config = replace(config, data_fingerprint=images_of(config.domains, config.batch_per_domain))
        return complete(config, size, fingerprint_of_start)

    return make


def labelled_domains(data: str | Path, domains: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The domains that have labels, to evaluate on, and a note on the others.

    Raises:
        InputError: a domain is not prepared, or none has labels.
    """
    folder = ensure_local(data, domains)
    labelled = tuple(name for name in domains if open_dataset(folder, name).is_labelled)
    others = ", ".join(name for name in domains if name not in labelled)
    if not labelled:
        why = f"no domain has labels ({others})" if others else "there are no training domains"
        raise InputError(f"{why}, so no dataset can be scored; name a labelled dataset, such as --evaluate cifar10.")
    return labelled, f"note: no scores on {others}: no labels" if others else ""


def plan(storage: Location, configs: list[TrialConfig], settings: SweepSettings) -> list[Work]:
    """Determine the remaining work of each trial, from ``storage`` alone.

    Raises:
        InputError: an evaluation dataset is not prepared, or cannot be scored.
    """
    data = ensure_local(settings.data, settings.evaluate)
    for name in settings.evaluate:
        check_scorable(open_dataset(data, name))
        if settings.score_every or settings.skips_stopped:
            check_validatable(open_dataset(data, name))
    fingerprints = {name: evaluation_fingerprint(data, name) for name in settings.evaluate}
    wanted = scores_of(settings.probe_config)
    # Most trials of a large sweep have no files yet, which one listing tells.
    begun = set((storage / TRIALS).names())
    rows = {} if settings.force else read_rows_of(storage, [config.trial_id for config in configs])

    def work(config: TrialConfig) -> Work:
        trial_dir = trial_dir_in(storage, config.trial_id) if config.trial_id in begun else None
        return _work(trial_dir, config, settings, fingerprints, wanted, rows.get(config.trial_id, []))

    return in_threads(work, configs, 1 if storage.is_local else 16)


def _work(
    trial_dir: Location | None,
    config: TrialConfig,
    settings: SweepSettings,
    fingerprints: dict[str, str],
    wanted: set[tuple[str, str]],
    rows: list[Row],
) -> Work:
    """``trial_dir``: None where the trial has no files."""
    everything = tuple(fingerprints)
    if settings.force:
        return Work(config, "queued", everything, "train")
    rows = usable_rows(rows, needs_validation=settings.needs_validation)
    for row in rows:
        check_precision(config, row["precision"] if row["status"] != "failed" else None)
    tried = tuple(row["finished_at"].isoformat() for row in rows if row["status"] == "failed")
    failures = {} if settings.retry_failed else _failures(rows, fingerprints)
    if (None, None) in failures:
        return Work(config, "failed", everything, error=failures[None, None])
    missing, failed = _missing(rows, fingerprints, wanted, failures)
    if not missing:
        return Work(config, "failed", (), error=failed[0]) if failed else Work(config, "finished", ())
    if trial_dir and stop_request(trial_dir).exists():
        return Work(config, "stopped", missing, tried=tried, on_request=True)
    if settings.skips_stopped and any(row["status"] == "stopped" for row in rows):
        return Work(config, "stopped", missing, tried=tried)
    if trial_dir is None:
        return Work(config, "queued", missing, "train", tried=tried)
    training = read_training(trial_dir)
    if training and training["status"] == "finished":
        return Work(config, "queued", missing, "evaluate", tried=tried)
    return Work(config, "queued", missing, "resume" if (trial_dir / "checkpoints").names() else "train", tried=tried)


def usable_rows(rows: list[Row], *, needs_validation: bool) -> list[Row]:
    """The rows of a trial without finished ones that lack a validation score, where one is needed of each."""
    return [row for row in rows if not (needs_validation and row["status"] == "finished" and row["val_top1"] is None)]


def still_missing(
    rows: list[Row], tried: Sequence[str], missing: Sequence[str], data: str | Path, probe: ProbeConfig
) -> tuple[tuple[str, ...], str]:
    """Datasets that still lack a score: another sweep may have made some since the plan.

    Args:
        rows: the trial's rows now, see `usable_rows`.
        tried: see `Work`.
        missing: datasets that lacked a score when the plan was made.

    Returns:
        The datasets to score, and the error of a failure in the other sweep, which would fail here as well.
    """
    fingerprints = {name: evaluation_fingerprint(data, name) for name in missing}
    failures = _failures([row for row in rows if row["finished_at"].isoformat() not in tried], fingerprints)
    if (None, None) in failures:
        return (), failures[None, None]
    left, failed = _missing(rows, fingerprints, scores_of(probe), failures)
    return left, failed[0] if failed else ""


def _missing(
    rows: list[Row],
    fingerprints: dict[str, str],
    wanted: set[tuple[str, str]],
    failures: dict[tuple[str | None, str | None], str],
) -> tuple[tuple[str, ...], list[str]]:
    """Datasets that lack a score that has not failed, and an error of each dataset that only lacks failed scores."""
    missing, failed = [], []
    for name, images in fingerprints.items():
        unscored = {probe for _, probe in wanted - _scored(rows, name, images)}
        if any((name, probe) not in failures for probe in unscored):
            missing.append(name)
        elif unscored:
            failed.append(failures[name, min(unscored)])
    return tuple(missing), failed


def _failures(rows: list[Row], fingerprints: dict[str, str]) -> dict[tuple[str | None, str | None], str]:
    """Errors by evaluation dataset (with its present images) and probe; the key of a failed training is None, None."""
    found: dict[tuple[str | None, str | None], str] = {}
    for row in rows:
        name = row["eval_dataset"]
        if row["status"] != "failed":
            continue
        if name is None:
            found[None, None] = row["error"]
        elif json.loads(row["config_json"])["evaluation"]["data_fingerprint"] == fingerprints.get(name):
            found[name, row["probe"]] = row["error"]
    return found


def scores_of(probe: ProbeConfig) -> set[tuple[str, str]]:
    """The scores that ``probe`` gives on each dataset: layers and names of probes, as in the leaderboard."""
    return {(layer, own.name) for layer in probe.features for own in probe.each()}


def has_score(rows: list[Row], dataset: str, dataset_fingerprint: str, probe: ProbeConfig) -> bool:
    """Whether ``rows`` have a finished score for every layer and learning rate of ``probe``, on the present images."""
    return scores_of(probe) <= _scored(rows, dataset, dataset_fingerprint)


def _scored(rows: list[Row], dataset: str, dataset_fingerprint: str) -> set[tuple[str, str]]:
    return {
        (row["features"], row["probe"])
        for row in rows
        if row["status"] == "finished"
        and row["eval_dataset"] == dataset
        and json.loads(row["config_json"])["evaluation"]["data_fingerprint"] == dataset_fingerprint
    }


def evaluation_fingerprint(data: str | Path, name: str) -> str:
    """The fingerprint of a dataset's train and test images, on which a probe is fitted and scored."""
    return open_dataset(data, name).evaluation_fingerprint
