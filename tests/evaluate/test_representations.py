"""The stored representation of a dataset by an encoder, and the class similarities computed from it."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.evaluate import representations
from mdssl.evaluate.features import extract_features
from mdssl.evaluate.representations import Layer, Representations, class_means, of_trial, read, represent, write
from mdssl.evaluate.sampling import sample_rows
from mdssl.evaluate.similarity import class_similarity, stacked, summarize
from mdssl.storage.location import Location


@pytest.fixture
def made(tiny_model, tiny_data):
    dataset = open_dataset(tiny_data, "tiny-a")
    encoded = extract_features(tiny_model, dataset.split("test").images)
    return represent(tiny_model, TrialConfig(method="random"), dataset, encoded)


def test_class_means_are_means_of_normalized_features():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(50, 7)).astype(np.float32), rng.integers(4, size=50)
    slow = np.zeros((5, 7))
    for label in range(4):
        rows = [features[row] / np.sqrt(sum(features[row] ** 2)) for row in range(50) if labels[row] == label]
        slow[label] = sum(rows) / len(rows)
    found = class_means(features, labels, 5)
    np.testing.assert_allclose(found[:4], slow[:4], rtol=1e-5, atol=1e-7)
    assert found.dtype == np.float32
    assert np.isnan(found[4]).all(), "a class without images must have no mean"
    longer = features * rng.uniform(0.1, 10, (50, 1)).astype(np.float32)
    np.testing.assert_allclose(class_means(longer, labels, 5)[:4], slow[:4], rtol=1e-4, atol=1e-6)


def test_both_layers_match_the_features_of_the_model(made, tiny_model, tiny_data):
    images = open_dataset(tiny_data, "tiny-a").split("test").images
    expected = extract_features(tiny_model, images, layers=("encoder", "projection"))
    assert len(made.rows) == 32
    assert (made.labels == open_dataset(tiny_data, "tiny-a").split("test").labels[made.rows]).all()
    for name, layer in made.layers.items():
        np.testing.assert_allclose(layer.sample, expected[name].numpy()[made.rows], rtol=1e-5, atol=1e-6)
    assert made.layers["encoder"].class_means.shape == (4, 32)
    assert made.layers["projection"].class_means.shape == (4, 16)


def test_a_pretrained_encoder_has_no_projection(tiny_model, tiny_data):
    config = TrialConfig(method="pretrained", weights="x.pth", weights_fingerprint="0" * 16)
    dataset = open_dataset(tiny_data, "tiny-a")
    found = represent(tiny_model, config, dataset, extract_features(tiny_model, dataset.split("test").images))
    assert list(found.layers) == ["encoder"]


def test_a_representation_is_written_reproducibly_and_read_back(made, tmp_path):
    for name in ("first", "second"):
        write(Location.of(tmp_path / name), made)
    files = [tmp_path / name / "representations" / "tiny-a.safetensors" for name in ("first", "second")]
    assert files[0].read_bytes() == files[1].read_bytes()
    found = read(Location.of(tmp_path / "first"), "tiny-a")
    assert (found.dataset, found.classes, found.fingerprint) == (made.dataset, made.classes, made.fingerprint)
    for name, layer in made.layers.items():
        np.testing.assert_array_equal(found.layers[name].class_means, layer.class_means)
        assert found.layers[name].sample.dtype == np.float32
        np.testing.assert_allclose(found.layers[name].sample, layer.sample, rtol=1e-3, atol=1e-4)
    assert read(Location.of(tmp_path / "first"), "tiny-b") is None


def test_values_beyond_float16_are_stored_exactly(made, tmp_path):
    large = Layer(made.layers["encoder"].class_means, made.layers["encoder"].sample * 1e6)
    write(Location.of(tmp_path), Representations(**vars(made) | {"layers": {"encoder": large}}))
    np.testing.assert_array_equal(read(Location.of(tmp_path), "tiny-a").layers["encoder"].sample, large.sample)


def test_message_for_a_damaged_file_gives_the_command_that_repairs_it(made, tmp_path):
    write(Location.of(tmp_path / "0123456789ab"), made)
    file = tmp_path / "0123456789ab" / "representations" / "tiny-a.safetensors"
    place, now = Location.of(tmp_path / "0123456789ab"), {"test": made.fingerprint}
    assert representations.is_kept(place, SimpleNamespace(name="tiny-a", fingerprints=now))
    assert not representations.is_kept(place, SimpleNamespace(name="tiny-a", fingerprints={"test": "other images"}))
    file.write_bytes(file.read_bytes()[:200])
    assert not representations.is_kept(place, SimpleNamespace(name="tiny-a", fingerprints=now))
    with pytest.raises(ValueError, match=r"is damaged .*mdssl probe 0123456789ab --evaluate tiny-a --storage /.*`"):
        read(place, "tiny-a")


@pytest.mark.parametrize(
    ("trial_id", "dataset"), [("../../etc", "tiny-a"), ("0123456789ab", "tiny/a"), ("0123456789ab", ".a")]
)
def test_names_of_paths_outside_the_storage_are_refused(tmp_path, trial_id, dataset):
    with pytest.raises(ValueError, match="is not a trial id|is not a dataset name"):
        of_trial(tmp_path, trial_id, [dataset])


def test_reading_representations_does_not_import_torch():
    code = "import mdssl.evaluate.representations, mdssl.evaluate.similarity, sys; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_samples_are_nested_and_balanced_between_classes():
    labels = np.random.default_rng(0).integers(5, size=200)
    few, many = sample_rows("cells", "test", labels, 5), sample_rows("cells", "test", labels, 300)
    assert sorted(labels[few]) == [0, 1, 2, 3, 4]
    assert (many[:5] == few).all()
    assert sorted(many) == list(range(200))
    # The order does not depend on the classes, but images of one class take turns with those of others.
    plain = sample_rows("cells", "test", np.zeros(200, int), 200).tolist()
    turns = {row: sum(labels[plain[:at]] == labels[row]) for at, row in enumerate(plain)}
    assert many.tolist() == sorted(plain, key=turns.get)
    assert not (sample_rows("cells", "train", labels, 200) == many).all()
    assert not (sample_rows("cells", "test", labels, 200, seed=1) == many).all()


def test_class_similarity_is_the_cosine():
    means = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
    means[4] = np.nan
    found = class_similarity(means)
    expected = torch.nn.functional.cosine_similarity(torch.tensor(means)[:, None], torch.tensor(means)[None], dim=2)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_summary_averages_similarities_within_and_across_domains():
    matrix = np.array(
        [
            [1.0, 0.8, 0.1, 0.3, 0.5],
            [0.8, 1.0, 0.2, 0.4, np.nan],
            [0.1, 0.2, 1.0, 0.6, -0.5],
            [0.3, 0.4, 0.6, 1.0, -0.1],
            [0.5, np.nan, -0.5, -0.1, 1.0],
        ]
    )
    found = summarize(matrix, ["a", "a", "b", "b", "c"])
    assert found.by_domain == pytest.approx({"a": 0.8, "b": 0.6, "c": np.nan}, nan_ok=True)
    assert found.by_pair == pytest.approx({("a", "b"): 0.25, ("a", "c"): 0.5, ("b", "c"): -0.3})
    assert found.within == pytest.approx(0.7)
    assert found.across == pytest.approx(0.15)
    single = np.random.default_rng(0).random((50, 50), dtype=np.float32)
    off_diagonal = single[~np.eye(50, dtype=bool)].astype(np.float64)
    assert summarize(single, ["a"] * 50).within == pytest.approx(off_diagonal.mean(), rel=1e-12)


def test_datasets_are_stacked_in_the_given_order(made):
    other = Representations(**vars(made) | {"dataset": "tiny-b"})
    found = stacked({"tiny-b": other, "tiny-a": made})
    assert found.groups == ("tiny-b",) * 4 + ("tiny-a",) * 4
    assert found.classes == made.classes * 2
    np.testing.assert_allclose(found.matrix[:4, 4:].diagonal(), 1)
    with pytest.raises(ValueError, match="'tiny-a' have no projection layer; allowed: encoder"):
        stacked({"tiny-a": Representations(**vars(made) | {"layers": {"encoder": made.layers["encoder"]}})})
    with pytest.raises(ValueError, match="at least one dataset"):
        stacked({})
