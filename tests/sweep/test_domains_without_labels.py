"""Domains without labels: training, search of neighbors, and notes on datasets that cannot be scored."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mdssl.cli.main import main
from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import new_fingerprint, open_dataset
from mdssl.data.prepare import prepare
from mdssl.leaderboard.board import read
from mdssl.pretrain.loop import train, with_fingerprint
from mdssl.storage.location import Location
from mdssl.sweep.grid import plan, trials
from mdssl.sweep.launch import run_sweep
from mdssl.sweep.settings import SweepSettings

SIMCLR = [{"method": "simclr"}]


def write_unlabelled(like: Path, folder: Path, images: np.ndarray) -> None:
    """Write a prepared dataset without labels. Other entries of its ``meta.json`` are those of ``like``."""
    meta = json.loads((like / "meta.json").read_text())
    size, splits = meta["image_size"], {}
    for name, part in (("train", images[:0]), ("test", images[:0]), ("unlabelled", images)):
        labels, digest = np.zeros(0, dtype=np.int64), new_fingerprint(len(part), size)
        digest.update(part)
        if name != "unlabelled":
            digest.update(labels)
            (folder / name).mkdir(parents=True)
            np.save(folder / name / "images.npy", images if name == "train" else part)
            np.save(folder / name / "labels.npy", labels)
        splits[name] = {"count": len(part), "sha256": digest.hexdigest()}
    splits["train"]["per_class"] = splits["test"]["per_class"] = []
    said = meta | {"name": folder.name, "classes": [], "splits": splits}
    (folder / "meta.json").write_text(json.dumps(said))


@pytest.fixture(scope="module")
def data(tiny_data, tmp_path_factory) -> str:
    """tiny-a, tiny-b and tiny-c; ``bare`` with 40 unlabeled images; ``few`` with 12 train images; ``one-class``."""
    folder = Path(shutil.copytree(tiny_data, tmp_path_factory.mktemp("unlabelled") / "data"))
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(40, 16, 16, 3), dtype=np.uint8)
    write_unlabelled(folder / "tiny-a", folder / "bare", images)
    few = {"images": images[:12], "labels": np.arange(12) % 2}
    np.savez(folder.parent / "few.npz", **{f"{split}_{key}": few[key] for split in ("train", "test") for key in few})
    prepare("few", data=folder, source=folder.parent / "few.npz", image_size=16, workers=1, progress=False)
    shutil.copytree(folder / "few", folder / "one-class")
    np.save(folder / "one-class" / "test" / "labels.npy", np.zeros(12, dtype=np.int64))
    return str(folder)


def settings(data, storage="unused", **changes) -> SweepSettings:
    base = {"arch": "resnet18", "batch_per_domain": 8, "iterations": 1, "precision": "fp32", "dry_run": True}
    return SweepSettings(data=data, storage=str(storage), **base | changes)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A storage with a trial on tiny-a and ``bare`` and a trial on ``bare`` alone, and the ids of both trials."""
    storage = tmp_path_factory.mktemp("results")
    ids = []
    for domains in (("tiny-a", "bare"), ("bare",)):
        shared = {"arch": "resnet18", "batch_per_domain": 8, "iterations": 1, "lr_warmup_iterations": 0}
        config = with_fingerprint(TrialConfig(method="simclr", domains=domains, precision="fp32", **shared), data)
        train(config, data=data, trial_dir=storage / "trials" / config.trial_id, device="cpu")
        ids.append(config.trial_id)
    return storage, ids


def run(command, data, storage, *words, code=0):
    assert main([command, *map(str, words), "--data", data, "--storage", str(storage), "--device", "cpu"]) == code


@pytest.mark.parametrize("method", ["mdssl", "mdssl-robust"])
def test_methods_train_on_a_domain_without_labels(data, tmp_path, method):
    """The mixture also has a labeled domain. `trained` tests simclr on an unlabeled domain alone."""
    clusters = {"warmup_iterations": 1, "recluster_every": 1} if "-" in method else {}
    domains = ("bare", "tiny-b")
    shared = {"arch": "resnet18", "batch_per_domain": 8, "iterations": 2, "lr_warmup_iterations": 0}
    config = TrialConfig(method=method, domains=domains, precision="fp32", **shared, **clusters)
    ended = train(with_fingerprint(config, data), data=data, trial_dir=tmp_path / "trial", device="cpu")
    assert (ended["status"], ended["step"]) == ("finished", 2)


def test_batch_size_is_limited_by_the_number_of_unlabeled_images(data):
    assert len(trials(settings(data, domains=("bare",), batch_per_domain=40), SIMCLR)) == 1
    with pytest.raises(ValueError, match="domain 'bare' has 40 training images; use at most 40"):
        trials(settings(data, domains=("bare",), batch_per_domain=41), SIMCLR)


def test_a_sweep_scores_labeled_domains_and_names_the_skipped_ones(data, tmp_path, capsys):
    assert run_sweep("test", settings(data, tmp_path, domains=("tiny-a", "bare", "tiny-b")), SIMCLR) == 0
    said = capsys.readouterr().out
    assert said.count("note: no scores on bare: no labels") == 1
    assert "to score: tiny-a, tiny-b" in said


@pytest.mark.parametrize(
    ("domains", "evaluate", "message"),
    [
        (("bare",), (), "no domain has labels \\(bare\\).*--evaluate"),
        (("tiny-a", "bare"), ("tiny-a", "bare"), "'bare' has no labels.*name a labelled dataset with --evaluate"),
        (("tiny-a",), ("one-class",), "'one-class' cannot be evaluated: its test part has images of class 0 only"),
    ],
)
def test_datasets_that_cannot_be_scored_are_refused_before_the_start(data, tmp_path, domains, evaluate, message):
    asked = settings(data, tmp_path / "new", domains=domains, evaluate=evaluate, dry_run=False)
    with pytest.raises(ValueError, match=message):
        run_sweep("test", asked, SIMCLR)
    assert not (tmp_path / "new").exists()


def test_a_dataset_with_fewer_train_images_than_neighbors_is_scored(data, trained, capsys):
    storage, ids = trained
    few = settings(data, domains=("tiny-a",), evaluate=("few",))
    (work,) = plan(Location.of(storage / "none"), trials(few, SIMCLR), few)
    assert str(work) == "queued to train"
    run("probe", data, storage, ids[0], "--evaluate", "few")
    (row,) = read(storage, trial_id=ids[0], eval_dataset="few").to_dict("records")
    assert json.loads(row["config_json"])["evaluation"]["knn_neighbours_there_are"] == 12
    assert 0 <= row["knn_top1"] <= 100


def test_probe_scores_labeled_domains_and_its_neighbor_sheet_searches_all(data, trained, capsys):
    storage, ids = trained
    run("probe", data, storage, ids[0])
    assert "note: no scores on bare: no labels" in capsys.readouterr().out
    assert set(read(storage, trial_id=ids[0])["eval_dataset"]) - {"few"} == {"tiny-a"}
    sheet = json.loads((storage / "trials" / ids[0] / "neighbors.json").read_text())
    assert sheet["candidates"] == {"tiny-a": 64, "bare": 40}
    assert "bare" not in sheet["datasets"]
    assert set(sheet["datasets"]["tiny-a"]["domains"]) == {"tiny-a", "bare"}


def test_probe_of_unlabeled_datasets_is_refused_with_a_hint(data, trained, capsys):
    storage, ids = trained
    for words in ((ids[1],), (ids[0], "--evaluate", "bare")):
        run("probe", data, storage, *words, code=2)
        assert re.search("labels.*name a labelled dataset", capsys.readouterr().err)
    run("probe", data, storage, ids[1], "--evaluate", "tiny-a", "bare", code=2)
    assert read(storage, trial_id=ids[1]).empty, "the command is refused before the first dataset is scored"
    run("probe", data, storage, ids[1], "--evaluate", "tiny-a")
    assert list(read(storage, trial_id=ids[1])["eval_dataset"]) == ["tiny-a"]


def test_unlabeled_images_can_be_searched_and_embedded(data, trained, tmp_path, capsys):
    storage, ids = trained
    images = open_dataset(data, "bare").pretraining_images()
    Image.fromarray(np.array(images[7])).save(tmp_path / "seventh.png")
    for query in (tmp_path / "seventh.png", "bare:train:3", "bare:train"):
        run("neighbours", data, storage, query, "--trial-id", ids[1], "--output", tmp_path / "sheet.png")
    said = capsys.readouterr().out
    assert "among 40 of 40 training images of bare" in said or "searched 40 of 40 training images of bare" in said
    run("neighbours", data, storage, "bare:test", "--trial-id", ids[1], "--output", tmp_path / "sheet.png", code=2)
    assert "'bare' has no test images" in capsys.readouterr().err
    run("embed", data, storage, "bare", "--trial-id", ids[1], "--output", tmp_path / "bare.parquet")
    embedded = pq.read_table(tmp_path / "bare.parquet")
    assert embedded.num_rows == 40
    assert "label" not in embedded.column_names
