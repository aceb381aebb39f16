"""`make chaos` detects faults: each fault here is injected into a trial that is killed and resumed."""

import copy
import json
import shutil

import pandas as pd
import pytest
from chaos import KINDS, plan
from factories import Killed
from same_results import compare
from work_log import VARIABLE, check_work, watch

from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.pretrain import loop
from mdssl.pretrain.progress import Progress

CONFIG = TrialConfig(
    domains=("tiny-a", "tiny-b"), arch="resnet18", iterations=8, batch_per_domain=4, precision="fp32", lambda2=0.1
)
SETTINGS = RunSettings(report_every=2, checkpoint_seconds=0, track=())


def trained(storage, data, killed_at=()):
    """Make a storage with one trial that is killed at each of the steps and resumed."""

    def report(progress: Progress):
        if progress.step in left:
            left.remove(progress.step)
            raise Killed

    trial_id = loop.with_fingerprint(CONFIG, data).trial_id
    left, folder = list(killed_at), storage / "trials" / trial_id
    while not (folder / "training.json").exists():
        try:
            loop.train(CONFIG, data=data, trial_dir=folder, settings=SETTINGS, device="cpu", report=report)
        except Killed:
            continue
    for name in ("a.npy", "b.npy"):
        (folder / "representations").mkdir(exist_ok=True)
        (folder / "representations" / name).touch()
    for name in ("neighbors.png", "neighbors.json"):
        (folder / name).touch()
    ended = json.loads((folder / "training.json").read_bytes())
    row = {name: ended[name] for name in ("status", "final_loss", "views_seen")}
    row |= {"trial_id": trial_id, "eval_dataset": "tiny-a", "features": "encoder", "probe": "lbfgs"}
    row |= {"top1": 50.0, "top5": 100.0, "knn_top1": 50.0}
    (storage / "leaderboard").mkdir(parents=True)
    pd.DataFrame([row]).to_parquet(storage / "leaderboard" / f"{trial_id}.parquet")
    return storage


def resumes_never(monkeypatch):
    monkeypatch.setattr(loop.checkpoint, "load_latest", lambda *arguments: None)


def resumes_from_the_checkpoint_before_the_last(monkeypatch):
    load_latest = loop.checkpoint.load_latest

    def load_older(folder, *arguments):
        if names := folder.names():
            (folder / max(names)).delete()
        return load_latest(folder, *arguments)

    monkeypatch.setattr(loop.checkpoint, "load_latest", load_older)


def saves_what_was_to_be_saved_before(monkeypatch):
    save, earlier = loop.checkpoint.save, []

    def save_what_was(folder, snapshot, state):
        earlier.append(copy.deepcopy((snapshot, state)))
        save(folder, *earlier[max(len(earlier) - 2, 0)])

    monkeypatch.setattr(loop.checkpoint, "save", save_what_was)


def a_row_of_metrics_twice(storage):
    (file,) = storage.glob("trials/*/metrics.parquet")
    rows = pd.read_parquet(file)
    pd.concat([rows, rows.tail(1)]).to_parquet(file)


def a_row_of_the_leaderboard_twice(storage):
    (file,) = storage.glob("leaderboard/*.parquet")
    rows = pd.read_parquet(file)
    pd.concat([rows, rows]).to_parquet(file)


def a_claim_is_left(storage):
    (next(storage.glob("trials/*")) / "claim.json").touch()


def a_temporary_file_is_left(storage):
    (storage / "leaderboard" / ".row.tmp").touch()


@pytest.fixture(scope="module")
def straight(tiny_data, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("straight"), tiny_data)


@pytest.fixture(scope="module")
def disturb(tiny_data):
    """A function that trains a trial with kills at steps 4 and 6, before their checkpoints; returns storage and log."""

    def disturbed(folder, fault=lambda monkeypatch: None):
        with pytest.MonkeyPatch.context() as monkeypatch:
            for owner, name in ((loop, "two_views"), (loop.checkpoint, "load_latest"), (loop.checkpoint, "save")):
                monkeypatch.setattr(owner, name, getattr(owner, name))  # so that the changes of `watch` are undone
            monkeypatch.setenv(VARIABLE, str(folder / "work.txt"))
            fault(monkeypatch)
            watch(loop)
            return trained(folder / "disturbed", tiny_data, killed_at=(4, 6)), folder / "work.txt"

    return disturbed


@pytest.fixture(scope="module")
def disturbed(disturb, tmp_path_factory):
    return disturb(tmp_path_factory.mktemp("disturbed"))


def test_killed_trial_has_the_results_of_an_undisturbed_one(disturbed, straight):
    storage, log = disturbed
    assert list(check_work(log, CONFIG.iterations).values()) == [4]
    compare(storage, straight, CONFIG.iterations)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (resumes_never, "begins after step 0, 2 is saved"),
        pytest.param(
            resumes_from_the_checkpoint_before_the_last, "begins after step 0, 2 is saved", marks=pytest.mark.long
        ),
        pytest.param(saves_what_was_to_be_saved_before, "begins after step 2, 4 is saved", marks=pytest.mark.long),
    ],
)
def test_fault_in_the_training_loop_is_detected(disturb, tmp_path, fault, said):
    _, log = disturb(tmp_path, fault)
    with pytest.raises(AssertionError, match=said):
        check_work(log, CONFIG.iterations)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (a_row_of_metrics_twice, "every step once"),
        (a_row_of_the_leaderboard_twice, "shape mismatch"),
        (a_claim_is_left, "left over.*claim.json"),
        (a_temporary_file_is_left, "left over.*row.tmp"),
    ],
)
def test_fault_in_the_files_is_detected(disturbed, straight, tmp_path, fault, said):
    storage = shutil.copytree(disturbed[0], tmp_path / "copy")
    fault(storage)
    with pytest.raises(AssertionError, match=said):
        compare(storage, straight, CONFIG.iterations)


def test_plan_is_a_function_of_the_seed_and_has_all_kinds_of_kills():
    kills = plan(1, 20, 300)
    assert kills == plan(1, 20, 300) != plan(2, 20, 300)
    victims = [kind for kill in kills for kind in kill.kinds]
    assert len(victims) == 20 and set(victims) == set(KINDS)
    assert any(len(kill.kinds) == 2 for kill in kills), "no two processes are killed together"
    assert kills[0].steps is None and any(kill.steps is None for kill in kills[1:]), (
        "kills at the start and during recovery are missing"
    )
