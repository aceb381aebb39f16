"""The sheet of a trial: its numbers on planted features, its files, and the images that it samples."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mdssl.config.trial import TrialConfig
from mdssl.evaluate.neighbors.search import Pictures
from mdssl.evaluate.representations import represent
from mdssl.evaluate.sampling import sample_rows
from mdssl.evaluate.trial_sheet import Part, part_of, read_sheet, shows, write_sheet
from mdssl.storage.location import Location

PRETRAINED = TrialConfig(method="pretrained", weights="x.pth", weights_fingerprint="0" * 16, input_size=12)


def part(name, train, direction, test, query, classes="xyz"):
    """Training and test images of the given labels. All training images have one direction, all queries another."""
    splits = {
        split: SimpleNamespace(images=np.zeros((len(labels), 8, 8, 3), np.uint8), labels=np.array(labels))
        for split, labels in (("train", train), ("test", test))
    }
    prints = {"train": f"{name}1" * 32, "test": f"{name}2" * 32}
    dataset = SimpleNamespace(name=name, classes=tuple(classes), fingerprints=prints, split=splits.__getitem__)
    pictures = (
        Pictures(dataset, split, np.arange(len(labels)), np.tile(at, (len(labels), 1)))
        for split, labels, at in (("test", test, query), ("train", train, direction))
    )
    return Part(*pictures)


def test_numbers_of_a_sheet_are_those_counted_by_hand(tmp_path):
    """Eight neighbors: of ``a`` its first eight images, of ``b`` its three images and the first five of ``a``."""
    between = np.array([1, 8**0.5]) / 3
    a = part("a", [0, 0, 0, 1, 1, 1, 2, 2, 2], [1.0, 0.0], [0] * 4, [1.0, 0.0])
    b = part("b", [0, 1, 2], [0.0, 1.0], [1] * 4, between)
    c = part("c", [0], [0.0, 1.0], [0] * 4, [1.0, 0.0], classes="o")
    place = Location.of(tmp_path)
    for name in ("neighbours.png", "neighbours.json"):
        (tmp_path / name).write_text("{}")
    content = write_sheet(place, TrialConfig(domains=("a", "b")), [a, b, c])
    columns = (
        "fingerprints",
        "queries",
        "domains",
        "own_domain",
        "own_domain_by_chance",
        "own_class",
        "own_class_by_chance",
    )
    assert [tuple(map(content["datasets"][name].get, columns)) for name in "abc"] == [
        (["a1" * 8, "a2" * 8], 4, {"a": 1.0, "b": 0.0}, 1.0, 0.75, 0.375, 0.3333),
        (["b1" * 8, "b2" * 8], 4, {"a": 0.625, "b": 0.375}, 0.375, 0.25, 0.375, 0.3333),
        (["c1" * 8, "c2" * 8], 4, {"a": 1.0, "b": 0.0}, None, None, None, None),
    ]
    assert [row["dataset"] for row in content["rows"]] == [*"aaabbbccc"]
    assert [one["similarity"] for one in content["rows"][3]["neighbors"]] == [0.943] * 3 + [0.333] * 5
    assert read_sheet(place) == content
    assert sorted(file.name for file in tmp_path.iterdir()) == ["neighbors.json", "neighbors.png"]
    prints = {"a": ["a1" * 8, "a2" * 8]}
    assert shows(content, prints) and not shows(None, prints)
    assert not any(shows(content, other) for other in ({"a": ["a1" * 8, "b2" * 8]}, prints | {"d": []}))
    many = [part(name, [0, 1], [1.0, 0.0], [0] * 4, [1.0, 0.0]) for name in "abcdefg"]
    assert len(write_sheet(place, TrialConfig(method="random"), many)["rows"]) == 7, "one row of each"
    for other in (content | {"format": 2}, []):
        (tmp_path / "neighbors.json").write_text(json.dumps(other))
        assert read_sheet(place) is None


def test_images_are_sampled_alike_for_all_trials_and_encoded_as_configured(tiny_model, make_dataset, passes):
    dataset = make_dataset(np.arange(1100) % 6, np.arange(420) % 6, 6)
    dataset.fingerprints = {"test": ""}
    found = part_of(tiny_model, PRETRAINED, dataset, "cpu:0")
    assert passes == {("cpu:0", 12)}
    for split, pictures, count in (("test", found.queries, 100), ("train", found.candidates, 1000)):
        assert (pictures.rows == sample_rows("tinted", split, dataset.split(split).labels, count)).all()
    encoded = {"encoder": torch.ones(420, 2)}
    rows = represent(tiny_model, PRETRAINED, dataset, encoded).rows
    assert (rows == np.sort(sample_rows("tinted", "test", dataset.split("test").labels, 400))).all()
    encoded["encoder"][7] = torch.nan
    with pytest.raises(ValueError, match="encoder features of 1 of 420 images are not finite"):
        represent(tiny_model, PRETRAINED, dataset, encoded)
