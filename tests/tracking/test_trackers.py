"""Trackers: their names, the values that they receive, and the isolation of a trial from their failures."""

import importlib.util
import threading

import pytest

from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.storage.location import Location
from mdssl.tracking import trackers as tracker_list
from mdssl.tracking.trackers import Trackers, log_scores, of_clustering

CONFIG = TrialConfig(domains=("a", "b"), arch="resnet18", iterations=8, batch_per_domain=8)


class Told:
    """A tracker that records its calls."""

    last = None

    def __init__(self, config, trial_dir, resumed_at):
        type(self).last, self.resumed_at, self.told, self.ended = self, resumed_at, [], None

    def log(self, step, values):
        self.told.append((step, values))

    def finish(self, failed):
        self.ended = failed


class Broken(Told):
    def log(self, step, values):
        raise ConnectionError("no network")


class Missing(Told):
    def __init__(self, config, trial_dir, resumed_at):
        raise ImportError("not installed on this machine")


class Hanging(Told):
    def finish(self, failed):
        threading.Event().wait(30)


@pytest.fixture
def trackers(monkeypatch):
    """Replaces the trackers by classes of this file."""

    def use(**classes):
        places = {name: f"{__name__}:{found.__name__}" for name, found in classes.items()}
        monkeypatch.setattr(tracker_list, "CLASSES", places)
        return tuple(places)

    return use


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("tensorbord",), "unknown tracker 'tensorbord'.*Did you mean 'tensorboard'"),
        (("tensorboard", "tensorboard"), "name each tracker once"),
        (("none", "tensorboard"), "unknown tracker 'none'"),
    ],
)
def test_wrong_tracker_names_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        RunSettings(track=names)


@pytest.mark.parametrize("names", [(), ("none",)])
def test_none_disables_all_trackers(names):
    assert RunSettings().track == ("tensorboard",)
    assert RunSettings(track=names).track == ()


def test_a_missing_tracker_package_is_refused_with_the_install_command(monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else there(name))
    with pytest.raises(ValueError, match=r"needs the package wandb.*pip install \"mdssl\[wandb\]\""):
        RunSettings(track=("tensorboard", "wandb"))


def test_trackers_receive_all_values_in_order_and_then_the_end(trackers, tmp_path):
    with Trackers(trackers(one=Told), CONFIG, Location.of(tmp_path)) as own:
        own.start(resumed_at=4)
        for step in range(5, 105):
            own.log(step, {"loss/total": step / 2, "clusters/churn": None})
    assert Told.last.resumed_at == 4
    assert Told.last.told == [(step, {"loss/total": step / 2}) for step in range(5, 105)]
    assert Told.last.ended is False


def test_trackers_learn_that_training_failed(trackers, tmp_path):
    with pytest.raises(ZeroDivisionError), Trackers(trackers(one=Told), CONFIG, Location.of(tmp_path)) as own:
        own.start(resumed_at=0)
        raise ZeroDivisionError
    assert Told.last.ended is True


def test_a_failing_tracker_gives_one_warning_and_the_others_continue(trackers, tmp_path, caplog):
    with Trackers(trackers(bad=Broken, missing=Missing, good=Told), CONFIG, Location.of(tmp_path)) as own:
        own.start(resumed_at=0)
        for step in (1, 2, 3):
            own.log(step, {"loss/total": 1.0})
    assert [step for step, _ in Told.last.told] == [1, 2, 3]
    assert caplog.text.count("tracker bad failed (ConnectionError: no network)") == 1
    assert caplog.text.count("tracker missing failed") == 1


def test_a_hanging_tracker_does_not_block_training(trackers, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracker_list, "FINISH_SECONDS", 0.2)
    with Trackers(trackers(slow=Hanging), CONFIG, Location.of(tmp_path)) as own:
        own.start(resumed_at=0)
    assert "did not finish" in caplog.text


def test_scores_are_logged_at_the_last_step(trackers, tmp_path):
    row = {
        "status": "finished",
        "eval_dataset": "a",
        "features": "encoder",
        "probe": "lbfgs",
        "top1": 50.0,
        "knn_top1": 4.0,
    }
    failed = {"status": "failed", "eval_dataset": "b"}
    log_scores(trackers(one=Told), CONFIG, Location.of(tmp_path), [row, failed])
    assert Told.last.resumed_at is None
    assert Told.last.told == [(8, {"top1/a/encoder/lbfgs": 50.0, "knn_top1/a/encoder/lbfgs": 4.0})]


def test_a_clustering_is_logged_by_its_sizes_and_measures():
    marks = {"purity": 0.9, "nmi": 0.5, "churn": None, "kept_share": 1.0, "epsilon": None, "inertia": 3.0}
    told = of_clustering({"round": 0, "step": 4, "sizes": [5, 7], "kept_sizes": [5, 7], "topped_up": 0, **marks})
    assert told == {"clusters/size_0": 5, "clusters/size_1": 7} | {f"clusters/{name}": marks[name] for name in marks}
