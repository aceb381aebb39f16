"""Miniature files in the published formats give the same pixels and labels in mdssl and torchvision."""

import pickle
import shutil

import numpy as np
import pytest
import scipy.io
from PIL import Image

from mdssl.data.prepare import prepare

datasets = pytest.importorskip("torchvision.datasets")

pytestmark = pytest.mark.usefixtures("miniature")


@pytest.fixture(autouse=True)
def no_md5(monkeypatch):
    """Disable the MD5 checks of torchvision, which miniature files cannot pass."""
    for module in ("cifar", "svhn", "stl10"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda path, md5=None: True)


def assert_same(split, torchvision_dataset):
    assert len(split.images) == len(torchvision_dataset)
    for image, label, (expected_image, expected_label) in zip(
        split.images, split.labels, torchvision_dataset, strict=True
    ):
        size = image.shape[:2]
        assert np.array_equal(image, np.asarray(expected_image.resize(size, Image.Resampling.BICUBIC)))
        assert label == expected_label


def write_pickle(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def cifar_batch(rng, count, labels_key):
    rows = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    return {"data": rows, labels_key: [row % 3 for row in range(count)]}


def test_cifar10_matches_torchvision(tmp_path, rng):
    folder = tmp_path / "raw/cifar-10-batches-py"
    folder.mkdir(parents=True)
    for file in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        write_pickle(folder / file, cifar_batch(rng, 6, "labels"))
    write_pickle(folder / "batches.meta", {"label_names": ["plane", "car", "bird"]})
    prepared = prepare("cifar10", data=tmp_path, source=tmp_path / "raw", progress=False)
    assert prepared.classes == ("plane", "car", "bird")
    assert prepared.meta["source"]["kind"] == "published"
    assert_same(prepared.split("train"), datasets.CIFAR10(tmp_path / "raw"))
    assert_same(prepared.split("test"), datasets.CIFAR10(tmp_path / "raw", train=False))


def test_cifar100_with_fine_labels_matches_torchvision(tmp_path, rng):
    folder = tmp_path / "raw/cifar-100-python"
    folder.mkdir(parents=True)
    for file in ("train", "test"):
        write_pickle(folder / file, cifar_batch(rng, 9, "fine_labels") | {"coarse_labels": [0] * 9})
    write_pickle(folder / "meta", {"fine_label_names": ["apple", "bee", "can"], "coarse_label_names": ["thing"]})
    # Both the inner folder and its parent are valid sources.
    prepared = prepare("cifar100", data=tmp_path, source=folder, progress=False)
    assert prepared.classes == ("apple", "bee", "can")
    assert_same(prepared.split("train"), datasets.CIFAR100(tmp_path / "raw"))
    assert_same(prepared.split("test"), datasets.CIFAR100(tmp_path / "raw", train=False))


def test_svhn_matches_torchvision_and_label_10_becomes_0(tmp_path, rng):
    (tmp_path / "raw").mkdir()
    for split in ("train", "test"):
        content = {"X": rng.integers(0, 256, (32, 32, 3, 20), dtype=np.uint8), "y": np.arange(20)[:, None] % 10 + 1}
        scipy.io.savemat(tmp_path / f"raw/{split}_32x32.mat", content)
    prepared = prepare("svhn", data=tmp_path, source=tmp_path / "raw", progress=False)
    assert prepared.split("train").labels[9] == 0
    for split in ("train", "test"):
        assert_same(prepared.split(split), datasets.SVHN(tmp_path / "raw", split=split))


def test_stl10_without_unlabelled_images_matches_torchvision(tmp_path, rng):
    folder = tmp_path / "downloads/stl10/stl10_binary"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        rng.integers(0, 256, (4, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{split}_X.bin")
        (np.arange(4, dtype=np.uint8) % 2 + 1).tofile(folder / f"{split}_y.bin")
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    prepared = prepare("stl10", data=tmp_path, progress=False)
    assert prepared.classes == ("airplane", "bird")
    for split in ("train", "test"):
        assert_same(prepared.split(split), datasets.STL10(folder.parent, split=split))


def test_dtd_joins_train_and_val_of_its_first_partition(tmp_path, write_folder, random_images, rng):
    photos = {f"images/{name}": rng.integers(0, 256, (3, 40, 60, 3), dtype=np.uint8) for name in ("banded", "woven")}
    root = write_folder(photos, "raw/dtd/dtd")
    (root / "labels").mkdir()
    for number, split in enumerate(("train", "val", "test")):
        lines = [f"{name}/{number:03d}.png" for name in ("woven", "banded")]
        (root / f"labels/{split}1.txt").write_text("\n".join(lines) + "\n")
        (root / f"labels/{split}2.txt").write_text("of another partition\n")
    prepared = prepare("dtd", data=tmp_path, source=tmp_path / "raw", progress=False)
    expected = [*datasets.DTD(tmp_path / "raw", split="train"), *datasets.DTD(tmp_path / "raw", split="val")]
    assert_same(prepared.split("train"), expected)
    assert_same(prepared.split("test"), datasets.DTD(tmp_path / "raw", split="test"))


def test_eurosat_has_a_seeded_split(tmp_path, write_folder, random_images):
    write_folder({f"2750/{name}": random_images(10, size=64) for name in ("Forest", "River")}, "raw/eurosat")
    prepared = prepare("eurosat", data=tmp_path, source=tmp_path / "raw", progress=False)
    assert prepared.meta["split"] == {"rule": "stratified", "seed": 0, "test_fraction": 0.2}
    assert prepared.counts == {"train": 16, "test": 4}
    everything = {np.asarray(image.resize((32, 32), 3)).tobytes(): y for image, y in datasets.EuroSAT(tmp_path / "raw")}
    for split in ("train", "test"):
        opened = prepared.split(split)
        for image, label in zip(opened.images, opened.labels, strict=True):
            assert everything.pop(image.tobytes()) == label
    assert not everything


@pytest.fixture
def chest_xray(tmp_path, rng):
    """Kaggle's chest X-rays in miniature: gray JPEGs of several sizes, a val folder, and .DS_Store files of macOS."""
    for split, count in {"train": 4, "test": 2, "val": 1}.items():
        for label in ("NORMAL", "PNEUMONIA"):
            folder = tmp_path / "raw/chest_xray" / split / label
            folder.mkdir(parents=True)
            (folder / ".DS_Store").write_bytes(b"")
            for number in range(count):
                picture = Image.fromarray(rng.integers(0, 256, (90 + number, 120), dtype=np.uint8))
                picture.save(folder / f"{label}-{number:04d}.jpeg")
    return tmp_path / "raw/chest_xray"


@pytest.mark.parametrize("place", ["raw", "raw/chest_xray"])
def test_chest_xrays_leave_out_the_val_folder(tmp_path, chest_xray, place):
    prepared = prepare("chestxray", data=tmp_path / "data", source=tmp_path / place, progress=False)
    assert prepared.classes == ("NORMAL", "PNEUMONIA")
    assert prepared.meta["split"] == {"rule": "as given", "left_out": {"validation": 2}}
    for split in ("train", "test"):
        assert_same(prepared.split(split), [(x.convert("RGB"), y) for x, y in grey_folder(chest_xray / split)])


def grey_folder(folder):
    return datasets.ImageFolder(folder, loader=lambda path: Image.open(path))


def test_a_damaged_chest_xray_and_an_empty_class_are_named(tmp_path, chest_xray):
    picture = Image.new("L", (90, 120))
    path = chest_xray / "test/NORMAL/NORMAL-0001.jpeg"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"chest_xray/test/NORMAL/NORMAL-0001\.jpeg cannot be decoded"):
        prepare("chestxray", data=tmp_path / "data", source=chest_xray, progress=False)
    for emptied in ("val/NORMAL", "train/PNEUMONIA", "train/NORMAL"):
        shutil.rmtree(chest_xray / emptied)
        (chest_xray / emptied).mkdir()
    for refilled in ("train/NORMAL", "train/PNEUMONIA", "val/NORMAL"):
        with pytest.raises(ValueError, match=f"{refilled} is missing or has no images"):
            prepare("chestxray", data=tmp_path / "data", source=chest_xray, progress=False)
        picture.save(chest_xray / refilled / "0.png")


def test_a_pickle_that_would_run_code_is_refused(tmp_path, rng):
    folder = tmp_path / "raw/cifar-100-python"
    folder.mkdir(parents=True)
    for file in ("train", "test"):
        write_pickle(folder / file, cifar_batch(rng, 6, "fine_labels"))
    (folder / "meta").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=r"meta cannot be read: it refers to .*system"):
        prepare("cifar100", data=tmp_path, source=folder, progress=False)


@pytest.mark.parametrize("file", ["train_X.bin", "train_32x32.mat"])
def test_a_damaged_raw_file_is_named(tmp_path, rng, file):
    name = "stl10" if file.endswith("bin") else "svhn"
    folder = tmp_path / "raw" / ("stl10_binary" if name == "stl10" else "")
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        if name == "stl10":
            (folder / f"{split}_X.bin").write_bytes(bytes(1000))
            (folder / f"{split}_y.bin").write_bytes(b"\1\2")
            (folder / "class_names.txt").write_text("a b")
        else:
            (folder / f"{split}_32x32.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(90))
    with pytest.raises(ValueError, match=f"{file} cannot be read"):
        prepare(name, data=tmp_path / "data", source=tmp_path / "raw", progress=False)


def test_message_for_missing_raw_files_gives_their_folder_and_url(tmp_path):
    with pytest.raises(ValueError) as caught:
        prepare("cifar10", data=tmp_path, progress=False)
    for piece in (str(tmp_path / "downloads/cifar10"), "--download", datasets.CIFAR10.url, datasets.CIFAR10.tgz_md5):
        assert piece in str(caught.value)
