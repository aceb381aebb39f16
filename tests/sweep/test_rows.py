"""What rows say of the images that a trial was trained and scored on."""

import json

import numpy as np
import pandas as pd
import pytest
from factories import CONTEXT

from mdssl.config.run import ProbeConfig
from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.data.prepare import prepare
from mdssl.evaluate.evaluate import evaluate_dataset
from mdssl.leaderboard.board import read, with_settings, write_rows
from mdssl.pretrain.loop import train
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.location import Location
from mdssl.sweep.rows import finished_row, images_of

WORDS = "2 of 10 classes, 8×8 pixels"


def test_a_row_records_what_sets_its_datasets_apart_and_views_say_it(papers_data, tmp_path):
    config = TrialConfig(
        **{"domains": ("cifar10", "svhn"), "arch": "resnet18", "iterations": 1, "batch_per_domain": 4},
        **{"method": "simclr", "lambda1": 1.0, "lambda2": 0.0, "precision": "fp32"},
    )
    trial_dir = Location.of(tmp_path) / "trials" / "t"
    training = train(config, data=papers_data, trial_dir=trial_dir, device="cpu")
    assert training["variants"] == {"cifar10": WORDS, "svhn": WORDS}
    dataset = open_dataset(papers_data, "svhn")
    model = load_model(trial_dir)[1]
    (score,) = evaluate_dataset(model, dataset, layers=("encoder",), probe=ProbeConfig(knn_neighbors=3))
    score |= {"eval_dataset": "svhn", "data_fingerprint": "x", "images": images_of(dataset)}
    row = finished_row(config, training, score, context=CONTEXT, trial_dir=trial_dir)
    said = json.loads(row["config_json"])
    assert said["variants"] == training["variants"]
    assert {name: said["evaluation"][name] for name in ("variant", "image_size", "majority_top1")} == {
        "variant": WORDS,
        "image_size": 8,
        "majority_top1": 50.0,
    }
    write_rows(str(tmp_path), config.trial_id, [row])
    shown = with_settings(read(str(tmp_path)))
    assert shown["eval_dataset"].tolist() == [f"svhn ({WORDS})"]
    assert shown["train_mixture"].tolist() == [f"cifar10 ({WORDS})+svhn ({WORDS})"]


@pytest.mark.parametrize(("labels", "majority"), [([0, 1] * 4, 50.0), ([0, 0, 0, 0, 0, 1, 1, 1], 62.5)])
def test_the_majority_class_is_that_of_the_test_images(tmp_path, labels, majority):
    images = np.zeros((8, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=[0, 1] * 4, test_images=images, test_labels=labels)
    dataset = prepare("mine", data=tmp_path, source=tmp_path / "a.npz", image_size=8, workers=1, progress=False)
    assert images_of(dataset)["majority_top1"] == pd.Series(labels).value_counts(normalize=True).max() * 100 == majority
