"""A storage of an earlier version can be read, reused, extended and resumed: see README.md."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from sweep_runs import encoders, run_here

from mdssl.cli.main import main
from mdssl.config.trial import TrialConfig
from mdssl.data.prepare import prepare
from mdssl.leaderboard.board import read
from mdssl.leaderboard.columns import SCHEMA
from mdssl.pretrain.loop import train

pytestmark = pytest.mark.usefixtures("full_encoders")
EARLIER = Path(__file__).parent / "5dacb93"
SWEEP = "--domains builtin-shapes builtin-digits --evaluate builtin-shapes --arch resnet18 --iterations 16"
SWEEP += " --batch-per-domain 8 --lr-warmup-iterations 2 --warmups 4 --intervals 6 --precision fp32"
DTYPES = {"F32": torch.float32, "I64": torch.int64, "BOOL": torch.bool}


def some_tensor(dtype: str, shape: list[int], generator: torch.Generator) -> torch.Tensor:
    """Small numbers for weights, positive numbers for parameters of batch norms, 0 or 1 for counters and labels."""
    if DTYPES[dtype].is_floating_point:
        of_norms = len(shape) < 2
        return (
            torch.rand(shape, generator=generator) + 0.5 if of_norms else torch.randn(shape, generator=generator) / 20
        )
    return torch.randint(2, shape, generator=generator).to(DTYPES[dtype])


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    """The storage with encoders and checkpoints of the right shapes. Tests must not write to it."""
    storage = tmp_path_factory.mktemp("earlier") / "results"
    shutil.copytree(EARLIER, storage)
    (storage / "tensors.json").unlink()
    said = json.loads((EARLIER / "tensors.json").read_text())
    for name, header in said["files"].items():
        if "/checkpoints/" in name and (storage / name).parents[1].joinpath("training.json").exists():
            continue
        generator = torch.Generator().manual_seed(0)
        kind = said["kinds"][header["tensors"]]
        tensors = {key: some_tensor(*part, generator) for key, part in kind.items()}
        (storage / name).parent.mkdir(exist_ok=True)
        safetensors.torch.save_file(tensors, storage / name, metadata=header["metadata"])
    return storage


@pytest.fixture
def storage(earlier, tmp_path) -> Path:
    return shutil.copytree(earlier, tmp_path / "results", copy_function=shutil.os.link)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """The built-in domains, made by the current code. Their fingerprints equal those in the trials."""
    folder = str(tmp_path_factory.mktemp("data"))
    for name in ("builtin-shapes", "builtin-digits"):
        prepare(name, data=folder, workers=1, progress=False)
    return folder


def trials(storage: Path) -> dict[str, TrialConfig]:
    files = storage.glob("trials/*/config.json")
    return {file.parent.name: TrialConfig.from_dict(json.loads(file.read_text())) for file in files}


def trial_of(storage: Path, method: str) -> str:
    return next(trial_id for trial_id, config in trials(storage).items() if config.method == method)


def test_trial_ids_are_unchanged(earlier):
    found = trials(earlier)
    assert {config.method for config in found.values()} >= {"random", "simclr", "mdssl", "mdssl-clustered"}
    assert {trial_id: config.trial_id for trial_id, config in found.items()} == {each: each for each in found}


def test_the_leaderboard_is_read_with_current_columns(earlier):
    board = read(earlier)
    assert list(board.columns) == SCHEMA.names
    before = pd.read_parquet(EARLIER / "leaderboard").set_index("trial_id")
    assert not set(before.columns) - set(board.columns)
    board = board.set_index("trial_id").loc[before.index]
    for column in ("method", "status", "eval_dataset", "top1", "knn_top1", "train_seconds", "config_json"):
        pd.testing.assert_series_equal(board[column], before[column], check_dtype=False)


def test_the_same_sweep_retrains_no_finished_trial_and_resumes_the_interrupted_one(earlier, data):
    plan = run_here(*SWEEP.split(), "--storage", earlier, "--data", data, "--dry-run", script="clustering")
    assert "clustering: 8 trials" in plan, plan
    assert "4 finished, 1 queued to resume, 3 queued to train" in " ".join(plan.split()), plan
    assert re.search(rf"{trial_of(earlier, 'mdssl-robust')} .*queued to resume", plan), plan


def test_status_shows_the_states_of_earlier_trials(earlier, capsys):
    assert main(["status", "--storage", str(earlier)]) == 0
    said = capsys.readouterr().out
    assert "4 finished" in said and trial_of(earlier, "mdssl-robust") in said


def test_probe_adds_scores_of_a_saved_encoder(storage, data, capsys):
    """Both for a new dataset and for the validation score, which the earlier rows lack."""
    trial_id, before = trial_of(storage, "mdssl-clustered"), encoders(storage)
    earlier = read(storage, trial_id=trial_id).set_index("eval_dataset").loc["builtin-shapes"]
    probe = ["probe", trial_id, "--evaluate", "builtin-shapes", "builtin-digits"]
    probe += ["--data", data, "--storage", str(storage), "--device", "cpu"]
    assert main(probe) == 0
    said = capsys.readouterr().out
    assert "builtin-shapes (encoder, lbfgs): top-1" in said and "builtin-digits (encoder, lbfgs): top-1" in said
    assert encoders(storage) == before
    rows = read(storage, trial_id=trial_id).set_index("eval_dataset")
    assert list(rows["status"]) == ["finished"] * 2
    assert pd.isna(earlier["val_top1"]) and rows["val_top1"].notna().all()
    # Another processor may classify some of the 300 images differently, because of rounding.
    assert rows["top1"]["builtin-shapes"] == pytest.approx(earlier["top1"], abs=1.5)
    assert main(probe) == 0
    assert capsys.readouterr().out.count("scored already") == 2
    assert rows["train_seconds"].nunique() == rows["started_at"].nunique() == 1, "all rows are of one training"


def test_an_interrupted_trial_resumes_from_its_checkpoint(storage, data):
    trial_id = trial_of(storage, "mdssl-robust")
    folder = storage / "trials" / trial_id
    reached = max(int(file.name[5:13]) for file in (folder / "checkpoints").iterdir())
    before, steps = pd.read_parquet(folder / "metrics.parquet"), []
    ended = train(
        trials(storage)[trial_id],
        data=data,
        trial_dir=folder,
        device="cpu",
        report=lambda progress: steps.append(progress.step),
    )
    assert (ended["status"], ended["step"]) == ("finished", 16)
    assert min(steps) > reached
    after = pd.read_parquet(folder / "metrics.parquet")
    pd.testing.assert_frame_equal(after.head(len(before))[list(before.columns)], before)
    assert list(after["step"])[len(before) :] == steps
