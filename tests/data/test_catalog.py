"""The nine datasets of the paper: all are known by name, with its splits, and incomplete files are refused."""

import pytest

from mdssl.data.catalog import CATALOG, seen_in
from mdssl.data.prepare import prepare

# The table of datasets: classes, and the images of train and test, or those from which a split is made.
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
def test_the_catalogue_counts_as_the_paper_does(name):
    published = CATALOG[name].published
    counts = published.counts
    train = published.train_per_class * published.classes if published.train_per_class else counts["train"]
    assert (published.classes, train, counts.get("test", counts.get("validation"))) == PAPER[name]
    for count in (f"{count:,}" for count in PAPER[name][1:] if count):
        assert count in CATALOG[name].splits


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if entry.published])
def test_without_files_the_message_says_what_to_put_where(tmp_path, name):
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
def test_what_needs_an_account_is_not_fetched_when_asked(tmp_path, name):
    with pytest.raises(ValueError, match=r"cannot be downloaded.* account"):
        prepare(name, data=tmp_path, download=True, progress=False)


def test_other_numbers_than_published_are_refused(tmp_path, write_folder, random_images):
    sorted_out = {
        f"{split}/{label}": random_images(2) for split in ("train", "test") for label in ("NORMAL", "PNEUMONIA")
    }
    root = write_folder(sorted_out, "chest_xray")
    with pytest.raises(ValueError, match=r"'chestxray' hold 4 train images, where 5,216 are published.*Kaggle"):
        prepare("chestxray", data=tmp_path / "data", source=root, progress=False)
    root = write_folder({f"2750/{name}": random_images(2) for name in ("Forest", "River")}, "raw")
    with pytest.raises(ValueError, match=r"'eurosat' hold 2 classes, where 10 are published.*EuroSAT\.zip"):
        prepare("eurosat", data=tmp_path / "data", source=root, progress=False)


def test_some_of_the_needed_files_are_not_taken_for_a_folder_of_your_own(tmp_path, write_folder, random_images):
    folders = {f"val/{label}": random_images(2) for label in ("NORMAL", "PNEUMONIA")}
    root = write_folder(folders | {"train/NORMAL": random_images(2), "train/PNEUMONIA": random_images(2)}, "chest_xray")
    with pytest.raises(ValueError, match=r"lack chest_xray/test/NORMAL, chest_xray/test/PNEUMONIA\. Put there"):
        prepare("chestxray", data=tmp_path / "data", source=root, progress=False)


def test_with_its_unlabelled_images_stl10_is_seen_as_well():
    assert seen_in(("stl10-unlabelled", "cells")) == {"stl10-unlabelled", "stl10", "cells"}
    assert seen_in(["cifar10"]) == {"cifar10"}
