"""The part of bench/gpu.py that trains and evaluates the encoders of the paper's table 1 at the scale that fits."""

from __future__ import annotations

import time
from dataclasses import fields

from harness import timed
from training_steps import Ours, config_of

from mdssl.config.presets import PRESETS
from mdssl.config.probe import ProbeConfig
from mdssl.config.run import RunSettings
from mdssl.config.trial import Recipe, TrialConfig
from mdssl.data.dataset import is_prepared, open_dataset
from mdssl.data.mixture import with_fingerprint
from mdssl.evaluate.evaluate import evaluate_dataset
from mdssl.paper.experiments import EXPERIMENTS
from mdssl.pretrain.loop import train
from mdssl.pretrain.model import build_model
from mdssl.pretrain.stopping import StoppedError
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.location import Location

TABLE = EXPERIMENTS["table1"]
_LENGTH = ("iterations", "lr_warmup_iterations", "batch_per_domain")
RECIPE = {
    field.name: PRESETS["cifar"][field.name]
    for field in fields(Recipe)
    if field.name in PRESETS["cifar"] and field.name not in _LENGTH
}
"""The settings of preset cifar, except the length of training."""
PROBES_SHARE = 0.35
"""Share of the time for probes."""


def table1(run, found: dict) -> None:
    """The paper's table 1 with short training of the same number of steps for all encoders; top-1 of probes in %."""
    names = [name for name in TABLE.evaluate if is_prepared(run.data, name)]
    trials = [trial for trial in TABLE.trials if set(trial.domains) <= set(names)]
    missing = sorted(set(TABLE.evaluate) - set(names))
    if missing:
        # The prepared datasets of a union are a union, too.
        unions = [trial for trial in TABLE.trials if len(trial.domains) > 1 and len(names) > 1]
        trials += [type(trial)(**{**vars(trial), "domains": tuple(names)}) for trial in unions]
        found["not prepared"] = ", ".join(missing)
    if not trials:
        found["skipped"] = f"none of {', '.join(TABLE.evaluate)} is prepared in {run.data}; give --data"
        return
    datasets = {name: open_dataset(run.data, name) for name in names}
    batch = min(8 if run.tiny else 512, *(dataset.pretraining_count for dataset in datasets.values()))
    recipe = {"arch": "resnet18"} if run.tiny else RECIPE
    steps = min(3 if run.tiny else PRESETS["cifar"]["iterations"], _steps(run, trials, recipe, batch))
    found["steps of each encoder"], found["images of a domain in a step"] = steps, batch
    trainings_end = run.until - PROBES_SHARE * run.left()
    own = {"batch_per_domain": batch, "iterations": steps, "lr_warmup_iterations": steps // 10, **recipe}
    scored = []
    for trial in trials:
        config = TrialConfig(**trial.settings, **own)
        config = with_fingerprint(config, run.data)
        row = found.setdefault(str(trial), {})
        try:
            ended = train(
                config,
                data=run.data,
                trial_dir=run.folder / config.trial_id,
                settings=RunSettings(track=(), checkpoint_seconds=1e9, compile_from=0),
                device=run.device,
                stop_requested=lambda: time.monotonic() > trainings_end,
            )
        except StoppedError as stopped:
            row["steps"] = f"{stopped}: no time left"
            continue
        row |= {"steps": ended["step"], "seconds": ended["train_seconds"], "views/s": ended["views_per_second"]}
        row["loss"] = ended["final_loss"]
        scored.append((row, config))
    untrained = TrialConfig(**TABLE.trials[0].settings | {"domains": (names[0],)}, **own)
    models = [(found.setdefault("random encoder", {}), build_model(untrained).to(run.device).eval())]
    models += [(row, load_model(Location.of(run.folder / each.trial_id), run.device)[1]) for row, each in scored]
    probe = ProbeConfig(probe="sgd-raw", probe_epochs=1) if run.tiny else ProbeConfig()
    for name, dataset in datasets.items():
        for row, model in models:
            (score,) = evaluate_dataset(model, dataset, layers=("encoder",), probe=probe, device=run.device)
            row[name] = score["top1"]
            row["average"] = sum(row[each] for each in names if each in row) / sum(each in row for each in names)


def _steps(run, trials: list, recipe: dict, batch: int) -> int:
    """Number of steps of each encoder that fit into the time, from timed steps."""
    seconds = 0.0
    for domains in {len(trial.domains) for trial in trials}:
        changes = {name: value for name, value in recipe.items() if name != "arch"}
        step = Ours(config_of("quick", domains=domains, batch=batch, **changes), run.device)
        step()
        each = min(timed(step, run.device) for _ in range(3))
        seconds += each * sum(len(trial.domains) == domains for trial in trials)
    # Each run also takes time to start and to write its encoder.
    return max(10, int((1 - PROBES_SHARE) * 0.85 * run.left() / seconds))
