"""The queue of encoders to score: concurrency, choice of node, claims, dead actors and the end of a sweep."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray
from factories import tiny_trial, trial_run
from processes import wait_for

from mdssl.config.trial import TrialConfig
from mdssl.leaderboard.board import read_rows, write_rows
from mdssl.pretrain.checkpoint import latest_step
from mdssl.pretrain.loop import train
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.claim import Claim, ClaimLostError, holder_of
from mdssl.storage.location import Location
from mdssl.storage.trial_dir import trial_dir_in
from mdssl.sweep import evaluations
from mdssl.sweep.evaluator import Evaluator
from mdssl.sweep.grid import Work
from mdssl.sweep.resources import Share

CPU, GPU = Share(workers=1, cpus=1, gpus=0), Share(workers=1, cpus=1, gpus=1)
HEAD, A, B = (f"{number:056x}" for number in (1, 2, 3))
WORKS = [Work(TrialConfig(method="random", seed=seed), "queued", ("tiny-a",), "train") for seed in range(6)]


@pytest.fixture
def run(tiny_data, tmp_path):
    return trial_run(str(tmp_path), tiny_data)


class Actor:
    def __init__(self, call):
        self.score_trial = call


class Actors:
    """Replaces Ray: actors that score until they may end, or die.

    Attributes:
        scoring: ids of trials whose scoring has begun, in this order.
        deaths: number of actor deaths that are still to come.
        options, created: the options and the arguments with which actors were created.
        ended: ids of trials that have been evaluated.
    """

    def __init__(self, monkeypatch):
        self.scoring, self.options, self.deaths, self.killed = [], [], 0, threading.Event()
        self.created, self.ended = [], []
        self.may_end = {work.config.trial_id: threading.Event() for work in WORKS}
        self.nodes = [{"NodeID": HEAD, "Alive": True, "Resources": {"CPU": 2.0}}]
        fake = SimpleNamespace(get=lambda ref: ref(), kill=lambda actor: None, nodes=lambda: self.nodes)
        monkeypatch.setattr(evaluations, "ray", SimpleNamespace(exceptions=ray.exceptions, **vars(fake)))
        monkeypatch.setattr(evaluations, "Evaluator", SimpleNamespace(options=self._with))

    def _with(self, **options):
        self.options.append(options)
        call = SimpleNamespace(remote=lambda work, run, token: lambda: self._score(work, token))
        return SimpleNamespace(remote=lambda *arguments: self.created.append(arguments) or Actor(call))

    def _score(self, work, token):
        if self.deaths:
            self.deaths -= 1
            raise ray.exceptions.ActorDiedError()
        trial_id = TrialConfig.from_dict(work["trial"]).trial_id
        self.scoring.append(trial_id)
        while not self.may_end[trial_id].wait(0.01):
            if self.killed.is_set():
                raise ray.exceptions.ActorDiedError()
        return {"state": "finished"}


@pytest.fixture
def actors(monkeypatch):
    return Actors(monkeypatch)


@pytest.fixture
def queue(run, actors):
    """Makes the evaluations of a sweep in whose two slots trials train. ``told`` and ``begun`` record their reports."""
    told, begun = {}, []

    def make(share=CPU, keeps_actors=True):
        progress = SimpleNamespace(evaluate=begun.append, tell=told.__setitem__)
        made = evaluations.Evaluations(run, share, 2, progress, actors.ended.append, keeps_actors=keeps_actors)
        made.told, made.begun = told, begun
        made._set_training(2)
        return made

    return make


def claims(run):
    return [work for work in WORKS if holder_of(trial_dir_in(run.storage, work.config.trial_id))]


def test_one_encoder_is_scored_during_training_and_one_per_slot_afterwards(queue, actors, run):
    ids = [work.config.trial_id for work in WORKS]
    with queue() as made:
        assert len(actors.options) == 1, "an actor is ready before the first trial has been trained"
        for work in WORKS:
            made.add(work)
            wait_for(lambda work=work: work in claims(run))
        wait_for(lambda: actors.scoring)
        time.sleep(0.1)
        assert actors.scoring == ids[:1], "the encoder that was added first is scored"
        assert claims(run) == WORKS, "trials that wait for their scores are claimed"
        actors.may_end[ids[0]].set()
        wait_for(lambda: len(actors.scoring) == 2)
        made.poll()
        assert made.told == {ids[0]: {"state": "finished"}} and made.pending == 5
        assert claims(run) == WORKS[1:]
        made._set_training(0)
        wait_for(lambda: len(actors.scoring) == 3)
        time.sleep(0.1)
        assert len(actors.scoring) == 3, "two encoders are scored at a time"
        for event in actors.may_end.values():
            event.set()
        looks = []
        assert made.wait(lambda: False, lambda: looks.append(True)) == [] and looks
        assert sorted(actors.ended) == sorted(ids)
        # With two at a time, the order of both lists may differ.
        assert set(made.told) == set(ids) and sorted(made.begun) == sorted(actors.scoring)
    assert not claims(run)
    assert len(actors.options) == 2, "actors are reused"


def test_a_trial_claimed_by_another_process_is_not_scored(queue, run):
    with queue() as made, Claim(trial_dir_in(run.storage, WORKS[0].config.trial_id), "another") as claim:
        claim.take()
        made.add(WORKS[0])
        (left,) = made.wait(lambda: False, lambda: None)
        assert (left.config, left.to_do) == (WORKS[0].config, "evaluate")
        assert made.told[left.config.trial_id]["owner"] == str(claim.owner)


@pytest.mark.parametrize("deaths", [2, 3])
def test_repeated_actor_deaths_become_a_failed_row(queue, actors, run, deaths):
    actors.deaths = deaths
    trial_id = WORKS[0].config.trial_id
    actors.may_end[trial_id].set()
    with queue() as made:
        made.add(WORKS[0])
        made.wait(lambda: False, lambda: None)
    rows = read_rows(run.storage, trial_id)
    assert made.told[trial_id]["state"] == ("finished" if deaths == 2 else "failed")
    assert [row["status"] for row in rows] == ([] if deaths == 2 else ["failed"])
    assert len(actors.options) == deaths + (deaths == 2), "dead actors are not reused"


def test_actor_deaths_on_a_lost_node_do_not_fail_the_trial(queue, actors, run):
    actors.deaths, trial_id = 7, WORKS[0].config.trial_id
    actors.may_end[trial_id].set()
    actors.nodes.append({"NodeID": A, "Alive": True, "Resources": {"CPU": 1.0}})
    with queue() as made:
        # The actors of the node are dead, and Ray no longer lists the node.
        actors.nodes[:] = [{"NodeID": HEAD, "Alive": False, "Resources": {}}]
        made.add(WORKS[0], HEAD)
        made.wait(lambda: False, lambda: None)
    assert made.told[trial_id] == {"state": "finished"}


def test_closing_the_queue_ends_scoring_and_releases_all_claims(queue, actors, run, monkeypatch):
    monkeypatch.setattr(evaluations.ray, "kill", lambda actor: actors.killed.set())
    with queue() as made:
        for work in WORKS:
            made.add(work)
        wait_for(lambda: claims(run) == WORKS and actors.scoring)
    assert not claims(run)
    assert len(actors.scoring) == 1
    assert not any(read_rows(run.storage, work.config.trial_id) for work in WORKS)


@pytest.mark.parametrize(
    ("share", "alive", "asked"),
    [
        (GPU, [A, B], B),
        (GPU, [A], A),
        (GPU, [], None),
        (replace(GPU, gpus=2), [], None),
        (replace(GPU, gpus=0.5), [B], B),
        (CPU, [B], B),
    ],
)
def test_an_encoder_is_scored_on_its_training_node_or_a_node_of_that_kind(
    queue, actors, share, alive, asked, monkeypatch
):
    """Never on a head without GPUs. If no node has a GPU, one is requested from the cluster."""
    actors.nodes += [{"NodeID": node, "Alive": node in alive, "Resources": {"CPU": 4.0, "GPU": 1.0}} for node in (A, B)]
    made = queue(share, keeps_actors=False)
    actors.may_end[WORKS[0].config.trial_id].set()
    with made:
        made.add(WORKS[0], B)
        made.wait(lambda: False, lambda: None)
        (options,) = actors.options
        strategy = options.get("scheduling_strategy")
        assert (strategy and strategy.node_id) == asked
        assert options.get("num_gpus") == (None if asked else 1)
        assert strategy is None or strategy.soft == (share is CPU)
        device = "cpu" if share is CPU else "auto"
        assert actors.created == [(made.run.data, made.run.probe, device, share.probe_memory, 0)]
        killed = []
        monkeypatch.setattr(evaluations.ray, "kill", killed.append)
        monkeypatch.setattr(evaluations, "_IDLE_SECONDS", -1.0)
        made.poll()
        assert len(killed) == 1 and not made._idle, "an idle actor would prevent the termination of the node"


def scored_by(run, work, token):
    actor = Evaluator.__ray_metadata__.modified_class(run.data, run.probe, "cpu")
    return actor.score_trial(work.to_dict(), run, token)


def test_scores_are_written_once_and_only_under_the_claim(run, tiny_data):
    (work, *_), storage = WORKS, Location.of(run.storage)
    trial_dir = trial_dir_in(storage, work.config.trial_id)
    with Claim(trial_dir) as claim:
        claim.take()
        assert scored_by(run, work, claim.token)["state"] == "queued", "the trial is untrained, which is not a failure"
        train(work.config, data=tiny_data, trial_dir=trial_dir, device="cpu")
        with pytest.raises(ClaimLostError):
            scored_by(run, work, "another")
        assert read_rows(storage, work.config.trial_id) == []
        assert scored_by(run, work, claim.token) == {"state": "finished"}
        (row,) = read_rows(storage, work.config.trial_id)
        assert (row["eval_dataset"], row["status"]) == ("tiny-a", "finished")
        assert scored_by(run, work, claim.token) == {"state": "finished"}
        assert read_rows(storage, work.config.trial_id) == [row]


def test_a_damaged_encoder_becomes_a_failed_row_with_the_reason(run, tiny_data):
    work = WORKS[0]
    trial_dir = trial_dir_in(run.storage, work.config.trial_id)
    train(work.config, data=tiny_data, trial_dir=trial_dir, device="cpu")
    (trial_dir / "encoder.safetensors").write_bytes(b"cut off")
    with Claim(trial_dir) as claim:
        claim.take()
        report = scored_by(run, work, claim.token)
    (row,) = read_rows(run.storage, work.config.trial_id)
    assert report == {"state": "failed", "error": row["error"]}
    assert "is damaged" in row["error"]


@pytest.mark.parametrize("keeps", [False, True])
def test_checkpoints_are_deleted_after_scoring_unless_they_are_to_be_kept(run, tiny_data, keeps):
    work = replace(WORKS[0], config=tiny_trial(schedule="wsd", iterations=5))
    trial_dir = trial_dir_in(run.storage, work.config.trial_id)
    train(work.config, data=tiny_data, trial_dir=trial_dir, device="cpu")
    encoder = (trial_dir / "encoder.safetensors").read_bytes()
    for content, state, step in [(b"cut off", "failed", 5), (encoder, "finished", 5 * keeps)]:
        (trial_dir / "encoder.safetensors").write_bytes(content)
        with Claim(trial_dir) as claim:
            claim.take()
            assert scored_by(replace(run, keep_checkpoints=keeps), work, claim.token)["state"] == state
        assert latest_step(trial_dir / "checkpoints") == step
        write_rows(Location.of(run.storage), work.config.trial_id, [])
    load_model(trial_dir)
    shared = Location.of(run.storage) / "stable"
    assert [latest_step(shared / name) for name in shared.names()] == [4], "the stable checkpoint is kept"
