"""``mdssl sweep paper``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from tyro.conf import Positional, Suppress

from mdssl.config.trial import ClusterSettings
from mdssl.errors import InputError, check_name
from mdssl.paper.experiments import EXPERIMENTS
from mdssl.sweep.settings import SweepSettings
from mdssl.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class Paper(SweepSettings, ClusterSettings):
    own_axes = ("num_clusters",)

    experiments: Positional[tuple[str, ...]] = ()
    """Tables and figures: table1 … table5, figure2, figure3, figure4, figure5-left, figure5-right, figureA1, figureA2,
    figureA3."""
    list: bool = False
    """Print what each experiment trains, needs and costs, then stop."""
    preset: str = "paper"
    """What is not given comes from: paper (section 3.1) | cifar | quick. Domains are always the experiments' own."""

    domains: Annotated[tuple[str, ...], Suppress] = ()
    evaluate: Annotated[tuple[str, ...], Suppress] = ()
    lambda1: Annotated[tuple[float, ...], Suppress] = (1.0,)
    lambda2: Annotated[tuple[float, ...], Suppress] = (0.1,)
    num_clusters: Annotated[int | None, Suppress] = None

    def __post_init__(self) -> None:
        # First: other checks would ask for what a search needs.
        if self.search != "grid" or self.range:
            raise InputError(
                "the paper's experiments have settings of their own, so there is nothing to search; leave --search and "
                "--range out, or use `mdssl sweep search`."
            )
        for name in self.experiments:
            check_name("experiment of the paper", name, EXPERIMENTS)
        chosen = [EXPERIMENTS[name] for name in self.experiments or EXPERIMENTS]
        of_experiments = {
            # Given only by the script itself: those of them that are prepared.
            "domains": self.domains or [name for experiment in chosen for name in experiment.domains],
            "evaluate": self.evaluate or [name for experiment in chosen for name in experiment.evaluate],
        }
        for axis, names in of_experiments.items():
            object.__setattr__(self, axis, tuple(dict.fromkeys(names)))
        object.__setattr__(self, "methods_left_out", tuple(trial.method for each in chosen for trial in each.trials))
        super().__post_init__()


def paper(settings: Paper) -> int:
    """The paper's experiments: any of its tables and figures, ours beside the published numbers.

    A trial that several experiments share is trained once. Where a dataset is not prepared, the trials and scores that
    need it are skipped and named. Each table is then printed beside its published values, cell by cell; those are the
    paper's, not ours, and no gate. Each figure is printed as a table, and drawn into the folder figures of the storage.
    What the text leaves open, and what was decided, is in the notes of --list.

    Examples:
      mdssl sweep paper --list
          every experiment with its trials, the datasets it needs and the GPU-hours to expect

      mdssl sweep paper table1 figure3
          preset paper: ResNet-50, 48,000 steps of 1024 images per domain, GPU-days

      mdssl sweep paper table1 --arch resnet18 --iterations 500 --batch-per-domain 128 --learning-rate 1.5
          a small one, to see it work; the numbers then say nothing about the paper's

    Run the same command again: it trains nothing twice, and continues where it stopped or prints the tables.
    """
    # Here, because --help should not wait for torch and pandas.
    from mdssl.leaderboard import board as leaderboard
    from mdssl.paper.plan import plan_experiments, print_list, print_skipped
    from mdssl.sweep.launch import run_sweep
    from mdssl.sweep.paper_results import show_results

    console = Terminal()
    names = settings.experiments or tuple(EXPERIMENTS)
    if settings.list:
        board = leaderboard.read(settings.storage)
        print_list(names, settings, board, console, data=settings.data, repeats=settings.repeats)
        return 0
    if not settings.experiments:
        raise InputError(f"no experiment is named; give one or more of {', '.join(EXPERIMENTS)}, or --list.")
    plan = plan_experiments(names, settings.data, has_weights=bool(settings.pretrained))
    print_skipped(plan, console)
    if not (plan.trials or settings.pretrained) or not plan.evaluate:
        raise InputError(
            f"no trial of {', '.join(names)} can be done: none of its mixtures is prepared in {settings.data}, and no "
            "encoder is given with --pretrained; or no dataset to score on is prepared. `mdssl data prepare NAME` "
            "prepares one."
        )
    # A pretrained encoder alone needs none to train on, but the settings name some.
    domains = tuple(dict.fromkeys(name for trial in plan.trials for name in trial.domains)) or plan.evaluate
    settings = replace(settings, domains=domains, evaluate=plan.evaluate)

    probes = [probe.name for probe in settings.probe_config.each()]
    show = partial(show_results, names, probes=probes, storage=settings.storage)
    return run_sweep("paper", settings, [trial.settings for trial in plan.trials], afterwards=show)
