"""Opening prepared datasets, and the messages for missing or damaged datasets."""

import json
import shlex

import numpy as np
import pytest

from mdssl.cli.main import main
from mdssl.data.dataset import open_dataset
from mdssl.data.prepare import prepare
from mdssl.data.remote import list_prepared


@pytest.fixture
def data(tmp_path, write_npz):
    """A data folder with the dataset "toy"."""
    prepare("toy", data=tmp_path / "data", source=write_npz(), progress=False)
    return tmp_path / "data"


def test_prepared_datasets_are_listed_by_name(data, write_npz):
    prepare("ant", data=data, source=write_npz(), progress=False)
    (data / "downloads/cifar10").mkdir(parents=True)
    datasets, problems = list_prepared(data)
    assert [dataset.name for dataset in datasets] == ["ant", "toy"]
    assert problems == []
    assert list_prepared(data / "nowhere") == ([], [])


def test_a_damaged_dataset_does_not_hide_the_others(data, write_npz):
    prepare("ant", data=data, source=write_npz(), progress=False)
    (data / "ant/meta.json").write_text("{")
    datasets, problems = list_prepared(data)
    assert [dataset.name for dataset in datasets] == ["toy"]
    assert len(problems) == 1
    assert "ant/meta.json cannot be read" in problems[0]


def test_counts_and_fingerprints_need_no_arrays(data):
    toy = open_dataset(data, "toy")
    for file in data.rglob("*.npy"):
        file.unlink()
    assert toy.counts == {"train": 12, "test": 6}
    assert {len(fingerprint) for fingerprint in toy.fingerprints.values()} == {64}


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("cifar10", ["is not prepared", "prepared: toy", "mdssl data prepare cifar10 --data", "--download"]),
        ("builtin-shapes", ["mdssl data prepare builtin-shapes --data"]),
        ("cifr10", ["unknown dataset 'cifr10'", "Did you mean 'cifar10'?"]),
        ("toi", ["Did you mean 'toy'?", "mdssl data prepare NAME --data", "--source PATH"]),
        ("../toy", ["unknown dataset"]),
    ],
)
def test_message_for_an_unprepared_dataset_gives_the_prepare_command(data, name, pieces):
    with pytest.raises(ValueError) as caught:
        open_dataset(data, name)
    for piece in pieces:
        assert piece in str(caught.value)


@pytest.mark.parametrize("file", ["images.npy", "labels.npy"])
@pytest.mark.parametrize("kept", [0, 20, 130])
def test_a_truncated_array_is_named(data, file, kept):
    path = data / "toy/test" / file
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"{file} is damaged.*mdssl data prepare toy .*--overwrite"):
        open_dataset(data, "toy")


def test_the_command_for_a_damaged_dataset_has_its_settings(tmp_path, write_npz, capsys):
    source, settings = write_npz("cifar.npz", test_images=None), ["--size", "16", "--filter", "box", "--seed", "3"]
    command = ["data", "prepare", "cifar10", "--source", str(source), "--data", str(tmp_path / "my data"), *settings]
    assert main([*command, "--classes", "owl", "cat"]) == 0
    before = open_dataset(tmp_path / "my data", "cifar10")
    (before.path / "test/labels.npy").write_bytes(b"")
    with pytest.raises(ValueError) as caught:
        open_dataset(tmp_path / "my data", "cifar10")
    words = shlex.split(str(caught.value).partition("Prepare it again: mdssl ")[2])
    assert words[words.index("--kind") + 1] == "npz"
    assert main([str(source) if word == "PATH" else word for word in words]) == 0
    assert open_dataset(tmp_path / "my data", "cifar10").fingerprints == before.fingerprints


@pytest.mark.parametrize(
    "array", [np.zeros((5, 32, 32, 3), np.uint8), np.zeros((6, 3, 32, 32), np.uint8), np.zeros((6, 32, 32, 3))]
)
def test_an_array_that_contradicts_meta_json_is_named(data, array):
    np.save(data / "toy/test/images.npy", array)
    with pytest.raises(ValueError, match=r"images\.npy is damaged: it holds"):
        open_dataset(data, "toy")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 99}'])
def test_a_bad_meta_json_is_named(data, content):
    (data / "toy/meta.json").write_text(content)
    with pytest.raises(ValueError, match=r"meta\.json cannot be read"):
        open_dataset(data, "toy")


def test_a_missing_entry_of_meta_json_is_named(data):
    path = data / "toy/meta.json"
    meta = json.loads(path.read_text())
    del meta["splits"]
    path.write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="'splits' is missing"):
        open_dataset(data, "toy")


def test_an_unknown_split_is_refused(data):
    with pytest.raises(ValueError, match="allowed: train, test"):
        open_dataset(data, "toy").split("val")
