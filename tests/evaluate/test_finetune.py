"""Fine-tuning on few labels: the images it uses, its training steps, and that the encoder stays unchanged."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mdssl.config.probe import ProbeConfig
from mdssl.evaluate import finetune as module
from mdssl.evaluate.evaluate import evaluate_dataset
from mdssl.evaluate.finetune import finetune, labelled_rows
from mdssl.evaluate.sampling import sample_rows
from mdssl.evaluate.validation import held_out

TRAIN, TEST = np.arange(240) % 6, np.arange(90) % 6
HALF = ProbeConfig(probe="finetune", probe_fraction=(0.5,), probe_batch=20, probe_epochs=10)


def test_defaults_match_simclr():
    small, large = ProbeConfig(probe="finetune").each()
    assert (small.probe_fraction, small.epochs, small.name) == ((0.01,), 60, "finetune(fraction=0.01)")
    assert (large.probe_fraction, large.epochs, large.name) == ((0.1,), 30, "finetune(fraction=0.1)")
    assert module._RATE_PER_256 == 0.05 and module._MOMENTUM == 0.9


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_labelled_images_are_balanced_and_exclude_held_out_images(make_dataset, fraction):
    # The last class has a third of the images.
    train = np.concatenate([np.arange(200) % 5, np.full(100, 5)])
    dataset, rows = make_dataset(train, TEST, 6), (np.arange(0, 300, 2), np.arange(1, 300, 2))
    config = replace(HALF, probe_fraction=(fraction,))
    chosen = labelled_rows(dataset, config, rows, seed=3)
    assert len(set(chosen)) == len(chosen) == max(6, round(fraction * 300))
    assert set(chosen) <= set(rows[0])
    assert (labelled_rows(dataset, config, None, 3) == sample_rows("tinted", "train", train, len(chosen), seed=3)).all()
    counts, there = np.bincount(train[chosen], minlength=6), np.bincount(train[rows[0]])
    # Each class has the same number of images, up to one, or all of its images.
    assert all(
        count in (counts.max(), counts.max() - 1) or count == have for count, have in zip(counts, there, strict=True)
    )
    assert set(chosen) != set(labelled_rows(dataset, config, rows, seed=4)) or fraction == 0.5


def test_finetuning_scores_above_chance_and_leaves_the_model_unchanged(tiny_model, make_dataset):
    dataset, before = make_dataset(TRAIN, TEST, 6), copy.deepcopy(tiny_model.state_dict())
    (row,) = evaluate_dataset(tiny_model, dataset, layers=("encoder",), probe=HALF)
    assert row["probe"] == "finetune(fraction=0.5,epochs=10,batch=20)"
    assert row["top1"] > 45 and row["val_top1"] > 40, "chance is 17"
    found = row["probe_settings"]
    assert (found["labelled_images"], found["batch"], found["steps"]) == (120, 20, 60)
    assert found["learning_rate"] == pytest.approx(0.05 * 20 / 256)
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())


def test_a_row_has_means_over_seeds_on_the_given_device_and_input_size(tiny_model, make_dataset, passes, caplog):
    dataset, config = make_dataset(TRAIN, TEST, 6), replace(HALF, probe_epochs=1, probe_seeds=2)
    with caplog.at_level("INFO", "mdssl"):
        (row,) = evaluate_dataset(
            tiny_model, dataset, layers=("encoder",), probe=config, seed=3, device="cpu:0", input_size=12
        )
    # Fine-tuning runs where the features of the frozen encoder are.
    assert passes == {("cpu:0", 12), (torch.device("cpu"), 12)}
    assert caplog.text.count("fine-tuning step 6 of 6") == caplog.text.count("fine-tuning step") == 2
    own = {"config": config, "rows_held_out": held_out(dataset), "width": 32, "input_size": 12}
    alone = [finetune(tiny_model, dataset, seed=seed, **own) for seed in (3, 10_003)]
    top1 = [one.result.top1 for one in alone]
    assert (row["top1"], row["top1_sd"]) == pytest.approx((np.mean(top1), np.std(top1, ddof=1)))
    assert row["val_top1"] == pytest.approx(np.mean([one.val_top1 for one in alone]))
    right = [one.val_top1 * 48 / 100 for one in alone]
    assert right == pytest.approx(np.round(right)), "percent of 48 images"


def test_divergence_is_reported_with_the_learning_rate(tiny_model, make_dataset, monkeypatch):
    monkeypatch.setattr(module, "_RATE_PER_256", math.inf)
    two_steps = replace(HALF, probe_epochs=1, probe_batch=60)
    with pytest.raises(ValueError, match="fine-tuning diverged at learning rate inf"):
        evaluate_dataset(tiny_model, make_dataset(TRAIN, TEST, 6), layers=("encoder",), probe=two_steps)


def test_predictions_depend_on_the_seed_and_not_on_test_labels(tiny_model, make_dataset):
    dataset = make_dataset(TRAIN, TEST, 6)
    other = make_dataset(TRAIN, np.roll(TEST, 1), 6, test_tint=TEST)

    def predictions(dataset, seed):
        torch.rand(seed)  # Random numbers drawn by the caller change nothing: this model has dropout.
        own = {"config": HALF, "rows_held_out": held_out(dataset), "width": 32}
        return finetune(tiny_model, dataset, seed=seed, **own).result.predictions

    torch.manual_seed(0)
    assert torch.equal(predictions(dataset, 1), predictions(dataset, 1))
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3)[-1:], after), "fine-tuning must not change the random state of the caller"
    assert torch.equal(predictions(dataset, 1), predictions(other, 1))
    assert not torch.equal(predictions(dataset, 1), predictions(dataset, 2))


def test_steps_match_nesterov_momentum_with_a_cosine_schedule(tiny_model, make_dataset, monkeypatch):
    """Without augmentation and with pixels as features, fine-tuning is logistic regression, repeated here by hand."""
    seen = []

    def unchanged(images, views, order):
        seen.append(views)
        return images.permute(0, 3, 1, 2).float() / 255

    monkeypatch.setattr(module, "augment", unchanged)
    monkeypatch.setattr("mdssl.evaluate.features.normalize", lambda x: x)
    tiny_model.encoder = torch.nn.Flatten()
    dataset = make_dataset(TRAIN, TEST, 6)
    config = ProbeConfig(probe="finetune", probe_fraction=(0.25,), probe_batch=16, probe_epochs=2)
    tuned = finetune(tiny_model, dataset, config=config, rows_held_out=None, width=192, seed=5)

    rows = labelled_rows(dataset, config, None, 5)
    x = torch.from_numpy(dataset.split("train").images[rows]).permute(0, 3, 1, 2).flatten(1).double() / 255
    y = torch.from_numpy(TRAIN[rows])
    weight, moving = torch.zeros(6, 193, dtype=torch.float64), torch.zeros(6, 193, dtype=torch.float64)
    x = F.pad(x, (0, 1), value=1.0)
    step, generator = 0, torch.Generator().manual_seed(5)
    for _ in range(2):
        order = torch.randperm(60, generator=generator)
        for batch in order[:48].split(16):
            rate = 0.05 * 16 / 256 * (1 + np.cos(np.pi * step / 6)) / 2
            error = (x[batch] @ weight.T).softmax(dim=1) - F.one_hot(y[batch], 6)
            gradient = error.T @ x[batch] / 16
            moving = 0.9 * moving + gradient
            weight -= rate * (gradient + 0.9 * moving)
            step += 1
    torch.testing.assert_close(tuned.result.classifier.weight.double(), weight[:, :-1], rtol=1e-4, atol=1e-7)
    assert tuned.val_top1 is None
    test_x = torch.from_numpy(dataset.split("test").images.copy()).permute(0, 3, 1, 2).flatten(1).double() / 255
    logits = F.pad(test_x, (0, 1), value=1.0) @ weight.T
    torch.testing.assert_close(tuned.result.classifier.logits(test_x.float()).double(), logits, rtol=1e-3, atol=1e-5)
    # Views are crops and flips, with no change of colors and no blur.
    views = {name: torch.cat([vars(view)[name] for view in seen]) for name in vars(seen[0])}
    assert all((views[name] == 1).all() for name in ("brightness", "contrast", "saturation"))
    assert all((views[name] == 0).all() for name in ("hue", "gray", "sigma"))
    assert all(len(views[name].unique()) > 1 for name in ("top", "left", "height", "width", "flip"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probe": "finetune", "probe_fraction": (0.0,)}, "probe_fraction is 0; give shares above 0"),
        ({"probe": "finetune", "probe_fraction": (0.1, 0.1)}, "probe_fraction is 0.1, 0.1; give .* each once"),
        (
            {"probe": "finetune", "features": ("projection",)},
            "features are projection, but finetune trains the encoder",
        ),
        (
            {"probe": "sgd", "probe_fraction": (0.1,)},
            "probe_fraction is 0.1, which the sgd probe does not have",
        ),
        ({"probe": "finetune", "probe_iterations": 5}, "probe_iterations is 5, which the finetune probe does not"),
        ({"probe": "sgd", "probe_iterations": 5, "probe_epochs": 5}, "and probe_epochs 5, which both"),
        ({"probe": "lbfgs", "probe_seeds": 3}, "probe_seeds is 3, which the lbfgs probe does not have; use"),
    ],
)
def test_invalid_and_incompatible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ProbeConfig(**settings)
