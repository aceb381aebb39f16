"""Images for pretraining only: STL-10's unlabelled images share an array with its train images and are no split."""

import json
import threading

import numpy as np
import pytest

from mdssl.data import decode
from mdssl.data.dataset import open_dataset
from mdssl.data.prepare import prepare

pytestmark = pytest.mark.usefixtures("miniature")


@pytest.fixture
def write_stl10(tmp_path, rng):
    """Write STL-10 with 5 labelled and ``unlabelled`` unlabelled training images, and 4 test images."""

    def write(unlabelled=70, root="raw"):
        folder = tmp_path / root / "stl10_binary"
        folder.mkdir(parents=True)
        for split, count in {"train": 5, "test": 4}.items():
            rng.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{split}_X.bin")
            (np.arange(count, dtype=np.uint8) % 2 + 1).tofile(folder / f"{split}_y.bin")
        rng.integers(0, 256, (unlabelled, 3, 96, 96), dtype=np.uint8).tofile(folder / "unlabeled_X.bin")
        (folder / "class_names.txt").write_text("airplane\nbird\n")
        return folder

    return write


@pytest.fixture
def both(tmp_path, write_stl10):
    """STL-10 without and with its unlabelled images."""
    source, data = write_stl10(), tmp_path / "data"
    return [prepare(name, data=data, source=source, progress=False) for name in ("stl10", "stl10-unlabelled")]


def test_pretraining_uses_labelled_images_followed_by_unlabelled_images(both, tmp_path):
    labelled, unlabelled = both
    assert unlabelled.counts == {"train": 5, "test": 4, "unlabelled": 70}
    assert unlabelled.pretraining_count == 75
    images = unlabelled.pretraining_images()
    assert isinstance(images, np.memmap)
    assert (images.shape, images.flags.writeable) == ((75, 32, 32, 3), False)
    assert np.array_equal(images[:5], labelled.split("train").images)
    raw = np.fromfile(tmp_path / "raw/stl10_binary/unlabeled_X.bin", np.uint8).reshape(-1, 3, 96, 96)
    picture = raw[69].transpose(2, 1, 0)
    assert np.array_equal(images[74], decode.convert(picture, 32, "bicubic", "the last image"))


def test_probes_use_only_labelled_images(both):
    labelled, unlabelled = both
    assert unlabelled.classes == labelled.classes
    for which in ("train", "test"):
        ours, theirs = unlabelled.split(which), labelled.split(which)
        assert np.array_equal(ours.images, theirs.images)
        assert np.array_equal(ours.labels, theirs.labels)
        assert ours.fingerprint == theirs.fingerprint
        assert ours.labels.min() >= 0
    assert "per_class" not in unlabelled.meta["splits"]["unlabelled"]
    with pytest.raises(ValueError, match="unknown split 'unlabelled'; allowed: train, test"):
        unlabelled.split("unlabelled")


def test_pretraining_uses_the_train_split_if_no_images_are_unlabelled(both):
    labelled = both[0]
    assert labelled.counts == {"train": 5, "test": 4}
    assert labelled.pretraining_count == 5
    assert np.array_equal(labelled.pretraining_images(), labelled.split("train").images)
    assert labelled.pretraining_fingerprint == labelled.fingerprints["train"]


def test_the_pretraining_fingerprint_covers_labelled_and_unlabelled_images(tmp_path, both, write_stl10):
    folder = tmp_path / "raw/stl10_binary"
    fingerprints = {dataset.pretraining_fingerprint for dataset in both}
    for file in ("train_X.bin", "unlabeled_X.bin"):
        before = (folder / file).read_bytes()
        # Invert a whole image, because resizing can remove the change of a single pixel.
        (folder / file).write_bytes(bytes(255 - value for value in before[:27648]) + before[27648:])
        settings = {"source": folder, "overwrite": True, "progress": False}
        fingerprints.add(prepare("stl10-unlabelled", data=tmp_path / "data", **settings).pretraining_fingerprint)
        (folder / file).write_bytes(before)
    assert {len(fingerprint) for fingerprint in fingerprints} == {64}
    assert len(fingerprints) == 4


def test_a_pool_of_processes_gives_the_same_bytes(tmp_path, both, monkeypatch):
    monkeypatch.setattr(decode, "POOL_PAYS_AFTER_SECONDS", 0)
    source = tmp_path / "raw"
    pooled = prepare("stl10-unlabelled", data=tmp_path / "pool", source=source, workers=2, progress=False)
    assert pooled.pretraining_fingerprint == both[1].pretraining_fingerprint


def test_stl10_unlabelled_shares_the_downloads_of_stl10(tmp_path, write_stl10):
    write_stl10(root="data/downloads/stl10")
    for name in ("stl10-unlabelled", "stl10"):
        prepare(name, data=tmp_path / "data", progress=False)
    assert [path.name for path in (tmp_path / "data/downloads").iterdir()] == ["stl10"]


def test_stl10_and_stl10_unlabelled_are_prepared_concurrently_without_deadlock(tmp_path, write_stl10):
    source = write_stl10()
    threads = [
        threading.Thread(target=prepare, args=(name,), kwargs={"data": tmp_path / "data", "source": source})
        for name in ("stl10", "stl10-unlabelled")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    counts = [open_dataset(tmp_path / "data", name).pretraining_count for name in ("stl10", "stl10-unlabelled")]
    assert counts == [5, 75]


def test_a_missing_unlabelled_file_is_named(tmp_path, write_stl10):
    folder = write_stl10()
    (folder / "unlabeled_X.bin").unlink()
    with pytest.raises(ValueError, match=r"lack stl10_binary/unlabeled_X\.bin"):
        prepare("stl10-unlabelled", data=tmp_path / "data", source=folder, progress=False)
    assert prepare("stl10", data=tmp_path / "data", source=folder, progress=False).counts["train"] == 5


def test_an_image_count_that_contradicts_the_array_is_refused(tmp_path, both):
    path = tmp_path / "data/stl10-unlabelled/meta.json"
    meta = json.loads(path.read_text())
    meta["splits"]["unlabelled"]["count"] = 60
    path.write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r"train/images\.npy is damaged: it holds uint8 \(75, 32, 32, 3\)"):
        open_dataset(tmp_path / "data", "stl10-unlabelled")
