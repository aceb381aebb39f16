"""The catalog contains the nine datasets of the paper with their splits, and incomplete files are refused."""

import dataclasses

import numpy as np
import pytest

from mdssl.data.arrays import Content
from mdssl.data.prepare import prepare
from mdssl.data.sources.catalog import CATALOG, seen_in, variant_of

# The paper's table of datasets: classes, train images and test images; without a test split, all images to be split.
PAPER = {
    "cifar10": (10, 50_000, 10_000),
    "cifar100": (100, 50_000, 10_000),
    "stl10": (10, 5_000, 8_000),
    "svhn": (10, 73_257, 26_032),
    "tiny-imagenet": (200, 100_000, 10_000),
    "dtd": (47, 1_880 + 1_880, 1_880),
    "imagenet250k": (1_000, 250_000, 50_000),
    "eurosat": (10, 27_000, None),
    "chestxray": (2, 5_216, 624),
}


@pytest.mark.parametrize("name", PAPER)
def test_catalog_counts_match_the_paper(name):
    published = CATALOG[name].published
    counts = published.counts
    train = published.train_per_class * published.classes if published.train_per_class else counts["train"]
    assert (published.classes, train, counts.get("test", counts.get("validation"))) == PAPER[name]
    for count in (f"{count:,}" for count in PAPER[name][1:] if count):
        assert count in CATALOG[name].splits


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if entry.published])
def test_missing_files_are_reported_with_their_folder_and_source(tmp_path, name):
    published = CATALOG[name].published
    with pytest.raises(ValueError) as caught:
        prepare(name, data=tmp_path, progress=False)
    message = str(caught.value)
    assert str(tmp_path / "downloads" / (published.files_of or name)) in message
    assert "--source PATH" in message
    if not published.remotes:
        assert "cannot be downloaded" in message
        assert published.by_hand in message
    else:
        assert "--download" in message
        for remote in published.remotes:
            assert remote.url in message
            assert remote.md5 in message


@pytest.mark.parametrize("name", ["chestxray", "imagenet250k"])
def test_download_of_datasets_that_need_an_account_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"cannot be downloaded.* account"):
        prepare(name, data=tmp_path, download=True, progress=False)


def test_image_and_class_counts_other_than_published_are_refused(tmp_path, write_folder, random_images):
    sorted_out = {
        f"{split}/{label}": random_images(2) for split in ("train", "test") for label in ("NORMAL", "PNEUMONIA")
    }
    root = write_folder(sorted_out, "chest_xray")
    with pytest.raises(ValueError, match=r"'chestxray' hold 4 train images, where 5,216 are published.*Kaggle"):
        prepare("chestxray", data=tmp_path / "data", source=root, progress=False)
    root = write_folder({f"2750/{name}": random_images(2) for name in ("Forest", "River")}, "raw")
    with pytest.raises(ValueError, match=r"'eurosat' hold 2 classes, where 10 are published.*EuroSAT\.zip"):
        prepare("eurosat", data=tmp_path / "data", source=root, progress=False)


def test_incomplete_published_files_are_not_read_as_a_user_folder(tmp_path, write_folder, random_images):
    folders = {f"val/{label}": random_images(2) for label in ("NORMAL", "PNEUMONIA")}
    root = write_folder(folders | {"train/NORMAL": random_images(2), "train/PNEUMONIA": random_images(2)}, "chest_xray")
    with pytest.raises(ValueError, match=r"lack chest_xray/test/NORMAL, chest_xray/test/PNEUMONIA\. Add"):
        prepare("chestxray", data=tmp_path / "data", source=root, progress=False)


def test_training_on_stl10_unlabelled_marks_stl10_as_seen():
    assert seen_in(("stl10-unlabelled", "cells")) == {"stl10-unlabelled", "stl10", "cells"}
    assert seen_in(["cifar10"]) == {"cifar10"}


def test_urls_and_md5_sums_match_torchvision():
    from torchvision import datasets

    def facts(name):
        return [(remote.url, remote.md5) for remote in CATALOG[name].published.remotes]

    assert facts("cifar10") == [(datasets.CIFAR10.url, datasets.CIFAR10.tgz_md5)]
    assert facts("cifar100") == [(datasets.CIFAR100.url, datasets.CIFAR100.tgz_md5)]
    assert facts("stl10") == facts("stl10-unlabelled") == [(datasets.STL10.url, datasets.STL10.tgz_md5)]
    assert facts("svhn") == [(url, md5) for url, _, md5 in (datasets.SVHN.split_list[s] for s in ("train", "test"))]
    assert facts("dtd") == [(datasets.DTD._URL, datasets.DTD._MD5)]


@pytest.mark.parametrize(
    ("classes", "train", "test", "words"),
    [
        (10, 73_257, 26_032, ""),
        (10, 4_434, 8_372, "4,434 of 73,257"),
        (3, 4_434, 8_372, "3 of 10 classes"),
        (10, 73_257, 8_372, "8,372 of 26,032 test images"),
        (10, 604_388, 26_032, "604,388 instead of 73,257"),
    ],
)
def test_variants_of_published_datasets_are_detected_by_their_counts(classes, train, test, words):
    assert variant_of("svhn", classes=classes, train=train, test=test) == words
    assert variant_of("stl10-unlabelled", classes=10, train=5_000, test=8_000, unlabelled=0) == (
        "0 of 100,000 unlabelled images"
    )
    assert variant_of("cells", classes=classes, train=train, test=test) == ""


def test_variants_are_detected_by_their_pixels_and_labels(tmp_path, write_npz, random_images, monkeypatch):
    """The numbers of images and classes match the published ones; the order of the images is ignored."""
    images, labels, tests = random_images(12), np.arange(12) % 3, random_images(6)
    content = Content()
    content.update(images)
    content.labels = labels
    published = dataclasses.replace(
        CATALOG["svhn"].published, classes=3, counts={"train": 12, "test": 6}, contents={"train": content.hexdigest()}
    )
    monkeypatch.setitem(CATALOG, "svhn", dataclasses.replace(CATALOG["svhn"], published=published))
    order = np.random.default_rng(0).permutation(12)
    variants = {}
    for what, arrays in {
        "same": (images, labels),
        "order": (images[order], labels[order]),
        "labels": (images, labels[::-1].copy()),
        "pixels": (255 - images, labels),
    }.items():
        source = write_npz(f"{what}.npz", train_images=arrays[0], train_labels=arrays[1], test_images=tests)
        variants[what] = prepare("svhn", data=tmp_path / what, source=source, progress=False).variant
    other = "other train images or labels than published"
    assert variants == {"same": "", "order": "", "labels": other, "pixels": other}
