"""How a folder of images is interpreted, and which folders are refused as ambiguous."""

import os
import unicodedata

import numpy as np
import pytest
from factories import each

from mdssl.data import prepare as prepare_module
from mdssl.data.sources.base import Findings, Reading
from mdssl.data.sources.folder import layout
from mdssl.data.splits import split_of


def read(files, **reading):
    """The classes of each split; None stands for images without a class folder."""
    found = layout(sorted(files), Reading(**reading), "photos", Findings())
    return {
        split: {name.partition("/")[0] if "/" in name else None for name in rows.values()}
        for split, rows in found.items()
        if rows
    }


CLASSES = {"cat", "dog"}


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("cat", "dog"), {"train": CLASSES}),
        (("Training/cat", "Training/dog", "Testing/cat"), {"train": CLASSES, "test": {"cat"}}),
        (("seg_train/seg_train/cat", "seg_train/seg_train/dog", "seg_test/seg_test/cat"),
         {"train": CLASSES, "test": {"cat"}}),
        (("archive/cells/cat", "archive/cells/dog"), {"train": CLASSES}),
        (("x/images/train/cat", "x/images/train/dog", "x/images/dev/cat"), {"train": CLASSES, "validation": {"cat"}}),
        (("bus", "car", "train"), {"train": {"bus", "car", "train"}}),
        (("freight_train", "test_tube", "dog"), {"train": {"freight_train", "test_tube", "dog"}}),
        (("train", "test"), {"train": {None}, "test": {None}}),
        (("train/cat", "train/dog", "test"), {"train": CLASSES, "test": {None}}),
        (("train/cat", "train/dog", "unlabeled"), {"train": CLASSES, "unlabelled": {None}}),
        (("cat", "dog", "unlabelled"), {"train": CLASSES, "unlabelled": {None}}),
        (("train/cat", "train/dog", "val/cat", "masks/cat"), {"train": CLASSES, "validation": {"cat"}}),
        (("train/cat", "train/dog", "val/cat", "predict"), {"train": CLASSES, "validation": {"cat"}}),
        (("one/all",), {"train": {"all"}}),
    ],
)  # fmt: skip
def test_folder_names_determine_splits_and_classes(folders, expected):
    assert read(each(*folders)) == expected


def test_images_without_class_folders_are_one_train_split():
    assert read(["0.png", "1.png"]) == {"train": {None}}
    assert read(["a/b/0.png", "a/b/1.png"]) == {"train": {"b"}}


@pytest.mark.parametrize(
    "folders",
    [
        ("cat/train", "cat/test", "dog/train", "dog/test"),
        ("a/images", "a/masks", "b/images", "b/masks"),
        ("train/images", "train/masks", "val/images", "val/masks"),
        ("images", "annotations"),
        ("JPEGImages", "SegmentationClass"),
        ("leftImg8bit/train/x", "gtFine/train/x"),
        ("color/a", "color/b", "grey/a", "grey/b"),
        ("fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"),
        ("A", "B", "cell_images/A", "cell_images/B"),
        ("2023/01/05", "2023/01/06", "2023/02/05"),
        ("trainA", "trainB", "testA", "testB"),
        ("train/2020", "train/2021", "car/2020", "bus/2020"),
    ],
)
def test_ambiguous_class_folders_are_refused(folders):
    with pytest.raises(ValueError, match="--splits"):
        read(each(*folders))


def test_subfolders_of_class_folders_are_not_ambiguous():
    assert read(each("train/a/images", "train/b/images", "val/a/images")) == {"train": {"a", "b"}, "validation": {"a"}}
    assert read(each("TrainImages/a", "TrainImages/b", "TestImages/a")) == {"train": {"a", "b"}, "test": {"a"}}
    assert read(each("abbey", "bar/indoor", "bar/outdoor")) == {"train": {"abbey", "bar"}}


@pytest.mark.parametrize(
    "folders",
    [
        ("bus", "car", "train/steam", "train/electric"),
        ("cat", "dog", "test/cat", "test/dog"),
        ("train/cat", "training/cat", "test/cat"),
        ("train/cat", "val/cat", "dev/cat"),
    ],
)
def test_ambiguous_split_folders_are_refused_without_the_splits_option(folders):
    with pytest.raises(ValueError, match="--splits"):
        read(each(*folders))
    first = next(folder.partition("/")[0] for folder in folders if "/" in folder)
    assert "train" in read(each(*folders), splits={})
    assert set(read(each(*folders), splits={"train": first})) == {"train"}


def test_the_splits_option_selects_folders(tmp_path):
    files = each("A/cat", "A/dog", "B/cat", "C/x")
    assert read(files, splits={"train": "A", "test": "B"}) == {"train": CLASSES, "test": {"cat"}}
    with pytest.raises(ValueError, match="split 'test' is 'D', but photos has no images there"):
        read(files, splits={"train": "A", "test": "D"})


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((word, "train") for word in ("train", "training", "Train", "my-train", "train_2017", "train-00000-of-00001")),
        *((word, "validation") for word in ("validation", "valid", "val", "dev", "VAL", "seg_val")),
        *((word, "test") for word in ("test", "testing", "eval", "evaluation", "test1")),
        *((word, None) for word in ("trainer", "latest", "devil", "interval", "cats", "train_test")),
    ],
)
def test_split_names_follow_hugging_face(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize(
    "files", [["0.png", "1.png", "sub/2.png"], each("all"), each("train", "test"), each("train/x")]
)
def test_images_without_labels_are_used_for_pretraining(files, photos, prepared):
    toy = prepared(photos(*files))
    assert not toy.is_labelled
    assert toy.counts["train"] == toy.counts["test"] == 0
    assert toy.pretraining_count == len(toy.pretraining_images()) == len([f for f in files if "test" not in f])
    toy.check_fingerprints()


def test_the_classes_option_drops_labels_or_selects_classes(photos, prepared):
    root = photos(*each("2024", "2025", "2026"))
    assert prepared(root, "all", reading=Reading(classes=())).pretraining_count == 6
    two = prepared(root, "two", reading=Reading(classes=("2026", "2024")), test_fraction=0.5)
    assert two.classes == ("2026", "2024")
    assert two.meta["left_out"]["images of classes that were not selected"]["count"] == 2
    with pytest.raises(ValueError, match=r"unknown class of photos '2027'.*: 2024, 2025, 2026"):
        prepared(root, "none", reading=Reading(classes=("2027",)))


def test_unicode_normal_forms_of_a_class_name_are_one_class(photos, prepared):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    toy = prepared(photos(*each(f"train/{composed}", "train/dog", f"test/{decomposed}", "test/dog")))
    assert toy.classes == ("café", "dog")
    assert toy.meta["splits"]["test"]["per_class"] == [2, 2]
    with pytest.raises(ValueError, match="two class folders of train have the same name"):
        prepared(photos(*each(f"train/{decomposed}")), overwrite=True)


def test_image_paths_that_are_not_utf8_are_refused(photos, prepared):
    root = photos(*each("cat", "dog"))
    os.rename(os.fsencode(root / "cat"), os.fsencode(root) + b"/caf\xe9")
    with pytest.raises(ValueError, match=r"paths of 2 images are not valid UTF-8, such as 'caf\\udce9/0.png'; rename"):
        prepared(root)


@pytest.mark.parametrize("change", ["another file", "other pixels"])
def test_a_changed_source_needs_overwrite(change, photos, prepared):
    root = photos(*each("cat", "dog"))
    before = prepared(root, test_fraction=0.5)
    assert prepared(root, test_fraction=0.5).meta == before.meta
    photos("cat/9.png" if change == "another file" else "cat/0.png")
    with pytest.raises(ValueError, match=r"before it was changed \(4 files.*--overwrite"):
        prepared(root, test_fraction=0.5)
    assert prepared(root, test_fraction=0.5, overwrite=True).fingerprints != before.fingerprints


def test_images_that_arrive_while_a_source_is_read_are_a_change(photos, prepared, monkeypatch):
    root, write = photos(*each("cat", "dog")), prepare_module.write_arrays

    def late(*arguments):
        photos("cat/9.png")
        return write(*arguments)

    monkeypatch.setattr(prepare_module, "write_arrays", late)
    assert sum(prepared(root, test_fraction=0.5).counts.values()) == 4
    with pytest.raises(ValueError, match=r"before it was changed \(4 files then, 5 files now\)"):
        prepared(root, test_fraction=0.5)


def test_another_classes_option_needs_overwrite(photos, prepared):
    root = photos(*each("cat", "dog", "cow"))
    first = prepared(root, test_fraction=0.5, reading=Reading(classes=("cat", "cow")))
    for source in (root, None):
        with pytest.raises(ValueError, match=r"--classes cat cow, not cat dog.*--overwrite"):
            prepared(source, test_fraction=0.5, reading=Reading(classes=("cat", "dog")))
    with pytest.raises(ValueError, match=r"--classes cat cow, not left out.*--overwrite"):
        prepared(root, test_fraction=0.5)
    assert prepared(None, test_fraction=0.5).meta == first.meta


@pytest.mark.parametrize(
    "splits", [{"train": "a", "test": "./a"}, {"train": ".", "test": "a"}, {"train": "a", "test": "a/b"}]
)
def test_splits_that_overlap_are_refused(splits):
    with pytest.raises(ValueError, match="Give each split a separate folder or file"):
        Reading(splits=splits)


def test_names_of_other_files_that_are_not_utf8_are_recorded_escaped(photos, prepared):
    root = photos(*each("cat", "dog"))
    (root / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"")
    moved = root.rename(os.fsdecode(os.fsencode(root) + b"\xe9"))
    toy = prepared(moved, test_fraction=0.5)
    assert toy.meta["left_out"]["files without an image suffix (.txt)"]["example"] == "caf\\udce9.txt"


def test_selecting_classes_of_images_without_labels_is_refused(photos, prepared, tmp_path):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "bare.npz", images=images)
    for source in (photos(*each("all")), tmp_path / "bare.npz"):
        with pytest.raises(ValueError, match="classes cat, dog cannot be selected: the images of .* have no labels"):
            prepared(source, reading=Reading(classes=("cat", "dog")))


def test_a_source_of_two_kinds_is_refused(photos, prepared):
    root = photos(*each("cat", "dog"))
    np.savez(root / "features.npz", x_train=np.zeros((4, 8, 8, 3), np.uint8), y_train=[0, 1, 0, 1])
    with pytest.raises(
        ValueError, match=r"2 ways: it has 1 npz file, 4 image files\. Decide with --kind npz or --kind f"
    ):
        prepared(root)
    assert prepared(root, kind="folder", test_fraction=0.5).classes == ("cat", "dog")
