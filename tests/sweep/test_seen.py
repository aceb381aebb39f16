"""Artifacts of a probe: representations and the neighbor sheet. Failures to write them do not affect scores."""

import errno
import json
import logging
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from mdssl.cli.main import main
from mdssl.config.probe import ProbeConfig
from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.evaluate import artifacts, confusion
from mdssl.evaluate.artifacts import TrialArtifacts
from mdssl.evaluate.evaluate import SEEDS_APART
from mdssl.evaluate.representations import of_trial, read
from mdssl.leaderboard.board import read as read_leaderboard
from mdssl.leaderboard.board import read_rows
from mdssl.pretrain.loop import train, with_fingerprint
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.location import Location
from mdssl.sweep.evaluator import Evaluator

CONFIG = TrialConfig(
    arch="resnet18",
    domains=("tiny-a", "tiny-b"),
    batch_per_domain=8,
    iterations=1,
    lr_warmup_iterations=0,
    precision="fp32",
)
KEPT = ("neighbors.json", "neighbors.png", "representations/tiny-a.safetensors", "representations/tiny-c.safetensors")


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    """A storage with one trained trial on tiny-a and tiny-b that is not yet probed."""
    storage = tmp_path_factory.mktemp("trained")
    config = with_fingerprint(CONFIG, tiny_data)
    train(config, data=tiny_data, trial_dir=storage / "trials" / config.trial_id, device="cpu")
    return storage


@pytest.fixture
def storage(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "results")


@pytest.fixture
def trial_dir(storage):
    return next((storage / "trials").iterdir())


@pytest.fixture(scope="module")
def probed(trained, tiny_data, tmp_path_factory):
    """The folder of the same trial after `mdssl probe` on tiny-a and tiny-c."""
    storage = shutil.copytree(trained, tmp_path_factory.mktemp("probed") / "results")
    trial_dir = next((storage / "trials").iterdir())
    probe(trial_dir, tiny_data, "tiny-a", "tiny-c")
    return trial_dir


def probe(trial_dir, data, *datasets):
    flags = ["--evaluate", *datasets, "--data", data, "--storage", str(trial_dir.parents[1]), "--device", "cpu"]
    assert main(["probe", trial_dir.name, *flags]) == 0


def artifacts_of(trial_dir, data):
    place = Location.of(trial_dir)
    return TrialArtifacts(place, *load_model(place), data=data, device="cpu")


def files(trial_dir):
    found = [*trial_dir.glob("neighbors.*"), *trial_dir.glob("representations/*")]
    return {str(file.relative_to(trial_dir)): (file.read_bytes(), file.stat().st_mtime_ns) for file in sorted(found)}


def contents(trial_dir):
    return {name: data for name, (data, _) in files(trial_dir).items()}


def test_probe_writes_artifacts_and_a_second_probe_leaves_them_unchanged(probed, tiny_data, capsys):
    first = files(probed)
    assert tuple(first) == KEPT
    matrices = confusion.read(Location.of(probed))
    rows = {row["eval_dataset"]: row for row in read_rows(probed.parents[1], probed.name)}
    assert [found["dataset"] for found in matrices] == ["tiny-a", "tiny-c"]
    for found in matrices:
        matrix, row = confusion.matrix_of(found), rows[found["dataset"]]
        assert found["seeds"] == 1 and matrix.sum() == row["num_test"]
        assert 100 * matrix.trace() / matrix.sum() == row["top1"]
        assert confusion.class_scores(matrix) == (row["balanced_accuracy"], row["macro_f1"])
    probe(probed, tiny_data, "tiny-a", "tiny-c")
    assert "tiny-a: scored already" in capsys.readouterr().out
    assert files(probed) == first
    said = json.loads(first["neighbors.json"][0])
    assert said["candidates"] == {"tiny-a": 64, "tiny-b": 64}, "candidates are images of the training domains"
    assert list(said["datasets"]) == ["tiny-a", "tiny-b", "tiny-c"]
    for words, (name, found) in zip(said["in_words"], said["datasets"].items(), strict=True):
        assert words.startswith(f"Neighbors of {found['queries']} test images of {name}: ")
        assert f"{found['own_class']:.0%} of the query's class (by chance {found['own_class_by_chance']:.0%})" in words
        assert (f"(by chance 50% {name})" in words) == (name in said["candidates"])
    assert len(first["neighbors.png"][0]) < 150_000


def test_probes_are_fitted_with_the_seed_of_the_trial(tiny_data, tmp_path):
    config = TrialConfig(method="random", arch="resnet18", seed=3)
    train(config, data=tiny_data, trial_dir=tmp_path / "trials" / config.trial_id, device="cpu")
    flags = ["--probe", "sgd", "--probe-epochs", "1", "--probe-seeds", "2", "--evaluate", "tiny-a"]
    flags += ["--data", tiny_data, "--storage", str(tmp_path), "--device", "cpu"]
    assert main(["probe", config.trial_id, *flags]) == 0
    (row,) = read_rows(tmp_path, config.trial_id)
    fits = json.loads(row["config_json"])["evaluation"]["of_seeds"]
    assert [fit["seed"] for fit in fits] == [3, 3 + SEEDS_APART]
    settings = ProbeConfig(probe="sgd", probe_epochs=1, probe_seeds=2)
    actor = Evaluator.__ray_metadata__.modified_class(tiny_data, settings, "cpu")
    (score,) = actor.score(str(tmp_path / "trials" / config.trial_id), ("tiny-a",))["tiny-a"]
    assert score["probe_settings"]["of_seeds"] == fits, "a sweep scores as mdssl probe does"
    (matrix,) = confusion.read(Location.of(tmp_path / "trials" / config.trial_id))
    assert matrix["seeds"] == 2 and confusion.matrix_of(matrix).sum() == 2 * row["num_test"]


def test_a_sweep_writes_the_same_artifacts_as_mdssl_probe(trial_dir, probed, tiny_data):
    left = [
        "representations/.tiny-a.safetensors.00000000.tmp",
        ".neighbors.png.00000000.tmp",
        ".confusion.parquet.00000000.tmp",
    ]
    (trial_dir / "representations").mkdir()
    for name in left:
        (trial_dir / name).write_bytes(b"of a probe that was killed")
    actor = Evaluator.__ray_metadata__.modified_class(tiny_data, ProbeConfig(), "cpu")
    actor.score(str(trial_dir), ("tiny-a", "tiny-c"))
    assert contents(trial_dir) == contents(probed)
    assert not [name for name in left if (trial_dir / name).exists()]


def test_missing_artifacts_are_made_on_request(trial_dir, storage, probed, tiny_data):
    assert of_trial(storage, trial_dir.name, ["tiny-a", "tiny-c"]) == {}
    found = artifacts_of(trial_dir, tiny_data)
    for name in ("tiny-a", "tiny-c"):
        found.add(open_dataset(tiny_data, name))
    assert not found.parts, "images of the sheet are encoded when it is drawn"
    found.draw()
    made = of_trial(storage, trial_dir.name, ["tiny-a", "tiny-c"])
    assert list(made) == ["tiny-a", "tiny-c"]
    for name in made:
        kept = read(Location.of(probed), name)
        for layer in ("encoder", "projection"):
            np.testing.assert_allclose(made[name].layers[layer].sample, kept.layers[layer].sample, rtol=0.01, atol=1e-3)
    artifacts_of(trial_dir, tiny_data).draw()
    shown = json.loads((trial_dir / "neighbors.json").read_text())["datasets"]
    assert list(shown) == ["tiny-a", "tiny-b", "tiny-c"], "datasets that were shown before stay"
    assert json.loads(contents(trial_dir)["neighbors.json"])["datasets"].keys() == {"tiny-a", "tiny-b", "tiny-c"}
    assert tuple(files(trial_dir)) == KEPT


def test_numbers_of_the_neighbor_sheet_match_its_neighbors(probed, tiny_data):
    said = json.loads((probed / "neighbors.json").read_text())
    for name, summary in said["datasets"].items():
        assert sum(summary["domains"].values()) == pytest.approx(1, abs=1e-3)
        assert summary["own_domain"] == summary["domains"].get(name)
        assert 0 <= summary["own_class"] <= 1
        assert summary["own_class_by_chance"] == pytest.approx(1 / 4)
    assert said["datasets"]["tiny-a"]["own_domain_by_chance"] == 0.5
    assert said["datasets"]["tiny-c"]["own_domain"] is None
    for row in said["rows"]:
        part = open_dataset(tiny_data, row["dataset"]).split("test")
        assert row["class"] == str(open_dataset(tiny_data, row["dataset"]).classes[part.labels[row["row"]]])
        similarities = [neighbor["similarity"] for neighbor in row["neighbors"]]
        assert similarities == sorted(similarities, reverse=True)
    assert said["in_words"][0].startswith("Neighbors of 32 test images of tiny-a: ")
    with Image.open(probed / "neighbors.png") as sheet:
        assert sheet.height > 100 * len(said["rows"])


def test_artifacts_that_cannot_be_written_are_made_by_the_next_probe(trial_dir, tiny_data, monkeypatch, caplog):
    replace = os.replace

    def full(source, target):
        if "representations" in str(target) or "neighbors" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(artifacts, "_RETRY_SECONDS", 0.01)
    with caplog.at_level(logging.WARNING, logger="mdssl"):
        probe(trial_dir, tiny_data, "tiny-a")
    board = read_leaderboard(str(trial_dir.parents[1]))
    assert list(board["status"]) == ["finished"]
    assert "No space left on device" in caplog.text
    assert not files(trial_dir)
    assert not list(trial_dir.rglob(".*.tmp"))
    monkeypatch.undo()
    probe(trial_dir, tiny_data, "tiny-a")
    made = files(trial_dir)
    assert len(made) == 3, "the next probe writes the missing files"
    probe(trial_dir, tiny_data, "tiny-c")
    assert list(json.loads((trial_dir / "neighbors.json").read_text())["datasets"]) == ["tiny-a", "tiny-b", "tiny-c"]
    assert files(trial_dir)["representations/tiny-a.safetensors"] == made["representations/tiny-a.safetensors"]


def test_the_neighbor_sheet_of_an_untrained_encoder_uses_evaluation_datasets(tiny_data, tmp_path):
    config = TrialConfig(method="random", arch="resnet18")
    trial_dir = tmp_path / "trials" / config.trial_id
    train(config, data=tiny_data, trial_dir=trial_dir, device="cpu")
    with pytest.raises(ValueError, match="no training domains; name datasets"):
        artifacts_of(trial_dir, tiny_data).sheet()
    probe(trial_dir, tiny_data, "tiny-c")
    assert json.loads((trial_dir / "neighbors.json").read_text())["candidates"] == {"tiny-c": 64}
