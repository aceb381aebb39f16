"""Tiny ImageNet and ImageNet in their published layouts, in miniature, complete and damaged.

Each image has a single gray value, unique to that image, which identifies the images of a split.
"""

import csv
import dataclasses
import shutil

import numpy as np
import pytest
import scipy.io
from PIL import Image

from mdssl.data.prepare import prepare
from mdssl.data.sources.catalog import CATALOG

pytestmark = pytest.mark.usefixtures("miniature")

# Not sorted, as in wnids.txt; the machine and the bird share the word "crane".
WORDS = {
    "n03126707": "crane",
    "n01443537": "goldfish, Carassius auratus",
    "n02012849": "crane, wading bird",
}
WNIDS = sorted(WORDS)
NAMES = ("goldfish", "crane (n02012849)", "crane (n03126707)")


def write_grey(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (40, 30), grey).save(path, "JPEG", quality=100)


def greys(split):
    """The gray value of each image."""
    assert (split.images == split.images[:, :1, :1, :1]).all()
    return split.images[:, 0, 0, 0].tolist()


@pytest.fixture
def tiny(tmp_path):
    """Tiny ImageNet with 2 training and 1 validation image of each class; val_annotations.txt is in another order."""
    folder = tmp_path / "raw/tiny-imagenet-200"
    for label, wnid in enumerate(WNIDS):
        for number in range(2):
            write_grey(folder / f"train/{wnid}/images/{wnid}_{number}.JPEG", 10 * label + number)
        write_grey(folder / f"val/images/val_{label}.JPEG", 100 + label)
    lines = [f"val_{label}.JPEG\t{WNIDS[label]}\t0\t32\t44\t62\n" for label in (2, 0, 1)]
    (folder / "val/val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(WORDS))
    (folder / "words.txt").write_text("".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items()))
    write_grey(folder / "test/images/test_0.JPEG", 200)
    return folder


@pytest.fixture
def choosing(monkeypatch):
    """Set the number of training images per class in imagenet250k."""

    def choose(per_class):
        entry = CATALOG["imagenet250k"]
        published = dataclasses.replace(entry.published, train_per_class=per_class)
        monkeypatch.setitem(CATALOG, "imagenet250k", dataclasses.replace(entry, published=published))

    return choose


@pytest.fixture
def imagenet(tmp_path, choosing):
    """Write an ImageNet folder ``root``: 5 training images of each class, 6 validation images without class folders."""

    def write(root="imagenet"):
        choosing(3)
        folder = tmp_path / root
        for label, wnid in enumerate(WNIDS):
            for number in range(5):
                write_grey(folder / f"train/{wnid}/{wnid}_{number}.JPEG", 10 * label + number)
        for number in range(1, 7):
            write_grey(folder / f"val/ILSVRC2012_val_{number:08d}.JPEG", 100 + number)
        return folder

    return write


VALIDATION = [WNIDS[label] for label in (2, 0, 1, 0, 2, 1)]


def write_solution(folder, wnids=VALIDATION):
    """Write Kaggle's csv, whose rows are not sorted."""
    with open(folder / "LOC_val_solution.csv", "w", newline="") as file:
        rows = [(f"ILSVRC2012_val_{number:08d}", f"{wnid} 1 2 3 4 ") for number, wnid in enumerate(wnids, 1)]
        csv.writer(file).writerows([("ImageId", "PredictionString"), *rows[::-1]])


def write_devkit(folder, wnids=VALIDATION):
    """Write the devkit: its class numbers do not follow the sorted IDs, and it also lists a group of classes."""
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    own = {wnid: number for number, wnid in enumerate(WORDS, 1)}
    rows = [(number, wnid, WORDS[wnid], "", 0) for wnid, number in own.items()] + [(4, "n00001740", "entity", "", 3)]
    devkit = folder / "ILSVRC2012_devkit_t12/data"
    devkit.mkdir(parents=True)
    scipy.io.savemat(devkit / "meta.mat", {"synsets": np.array(rows, dtype=fields)[:, None]})
    lines = "".join(f"{own[wnid]}\n" for wnid in wnids)
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)


@pytest.fixture
def refused(tmp_path):
    """Prepare bad files and return the error message; only unfinished folders and locks may be left."""

    def refuse(name, source):
        with pytest.raises(ValueError) as caught:
            prepare(name, data=tmp_path / "data", source=source, progress=False)
        left = [path.name for path in (tmp_path / "data").glob("*") if path.suffix not in (".lock", ".tmp")]
        assert left == []
        return str(caught.value)

    return refuse


@pytest.mark.parametrize("place", ["raw", "raw/tiny-imagenet-200"])
def test_tiny_imagenet_uses_its_validation_split_as_test(tmp_path, tiny, place):
    prepared = prepare("tiny-imagenet", data=tmp_path / "data", source=tmp_path / place, progress=False)
    assert prepared.classes == NAMES
    assert prepared.meta["split"] == {"rule": "validation as test"}
    train, test = prepared.split("train"), prepared.split("test")
    assert (greys(train), train.labels.tolist()) == ([0, 1, 10, 11, 20, 21], [0, 0, 1, 1, 2, 2])
    assert (greys(test), test.labels.tolist()) == ([102, 100, 101], [2, 0, 1])


def test_tiny_imagenet_is_unpacked_without_its_unlabelled_test_images(tmp_path, tiny):
    shutil.make_archive(tmp_path / "tiny-imagenet-200", "zip", tmp_path / "raw")
    archive = tmp_path / "tiny-imagenet-200.zip"
    prepared = prepare("tiny-imagenet", data=tmp_path / "data", source=archive, progress=False)
    assert prepared.counts == {"train": 6, "test": 3}
    unpacked = tmp_path / "data/downloads/tiny-imagenet/tiny-imagenet-200"
    assert sorted(path.name for path in unpacked.iterdir()) == ["train", "val", "wnids.txt", "words.txt"]


def test_bad_files_of_tiny_imagenet_are_named(tiny, refused):
    def message(change):
        copy = tiny.parent.with_name("bad") / tiny.name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tiny, copy)
        change(copy)
        return refused("tiny-imagenet", copy)

    def annotate(text):
        return lambda folder: (folder / "val/val_annotations.txt").write_text(text)

    first = f"{WNIDS[0]}/images/{WNIDS[0]}"
    assert "lack tiny-imagenet-200/wnids.txt" in message(lambda folder: (folder / "wnids.txt").unlink())
    assert "val_annotations.txt is missing" in message(lambda folder: (folder / "val/val_annotations.txt").unlink())
    assert "val_annotations.txt line 1 is 'val_0.JPEG'" in message(annotate("val_0.JPEG\n"))
    assert "names 1 image not in" in message(annotate(f"val_7.JPEG\t{WNIDS[0]}\n"))
    assert "such as 'val_7.JPEG'" in message(annotate(f"val_7.JPEG\t{WNIDS[0]}\n"))
    assert "into the class 'n00000001'" in message(annotate("val_0.JPEG\tn00000001\n"))
    gone = message(lambda folder: shutil.rmtree(folder / "train" / WNIDS[1]))
    assert f"train/{WNIDS[1]}/images is missing or has no images" in gone
    broken = message(lambda folder: (folder / f"train/{first}_1.JPEG").write_bytes(b"\xff\xd8\xff and no more"))
    assert f"image tiny-imagenet-200/train/{first}_1.JPEG cannot be decoded" in broken


def test_imagenet_is_read_with_class_folders_in_val(tmp_path, imagenet):
    folder = imagenet()
    for image, wnid in zip(sorted((folder / "val").iterdir()), VALIDATION, strict=True):
        (folder / "val" / wnid).mkdir(exist_ok=True)
        image.rename(folder / "val" / wnid / image.name)
    prepared = prepare("imagenet250k", data=tmp_path / "data", source=folder, progress=False)
    assert prepared.classes == tuple(WNIDS)
    assert prepared.meta["split"] == {"rule": "validation as test", "train_per_class": 3, "seed": 0}
    assert prepared.meta["splits"]["train"]["per_class"] == [3, 3, 3]
    assert [grey // 10 for grey in greys(prepared.split("train"))] == prepared.split("train").labels.tolist()
    test = prepared.split("test")
    assert (greys(test), test.labels.tolist()) == ([102, 104, 103, 106, 101, 105], [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("place", ["kaggle", "kaggle/ILSVRC/Data/CLS-LOC", "kaggle/ILSVRC/Data/CLS-LOC/train"])
def test_imagenet_is_read_from_the_folders_of_kaggle(tmp_path, imagenet, place):
    imagenet("kaggle/ILSVRC/Data/CLS-LOC")
    write_solution(tmp_path / "kaggle")
    synsets = "".join(f"{wnid} {WORDS[wnid]}\n" for wnid in WNIDS)
    (tmp_path / "kaggle/LOC_synset_mapping.txt").write_text(synsets)
    prepared = prepare("imagenet250k", data=tmp_path / "data", source=tmp_path / place, progress=False)
    assert prepared.classes == NAMES
    test = prepared.split("test")
    assert (greys(test), test.labels.tolist()) == ([101, 102, 103, 104, 105, 106], [2, 0, 1, 0, 2, 1])


def test_imagenet_is_read_with_the_devkit(tmp_path, imagenet):
    folder = imagenet()
    write_devkit(folder)
    prepared = prepare("imagenet250k", data=tmp_path.with_name("data"), source=tmp_path, progress=False)
    assert prepared.classes == NAMES
    assert prepared.split("test").labels.tolist() == [2, 0, 1, 0, 2, 1]


def test_the_seed_selects_images_and_only_selected_images_are_decoded(tmp_path, imagenet):
    folder = imagenet()
    write_solution(folder)

    def chosen(seed):
        data = tmp_path / "data"
        settings = {"source": folder, "seed": seed, "overwrite": True, "progress": False}
        prepared = prepare("imagenet250k", data=data, **settings)
        assert prepared.meta["split"]["seed"] == seed
        return greys(prepared.split("train"))

    first = chosen(seed=1)
    assert chosen(seed=2) != first
    for label, wnid in enumerate(WNIDS):
        for number in range(5):
            if 10 * label + number not in first:
                (folder / f"train/{wnid}/{wnid}_{number}.JPEG").write_bytes(b"no image")
    assert chosen(seed=1) == first
    with pytest.raises(ValueError, match="already prepared with seed 1, not 3"):
        prepare("imagenet250k", data=tmp_path / "data", source=folder, seed=3, progress=False)


def test_imagenet250k_has_250_images_of_each_class(tmp_path):
    for wnid in WNIDS[:2]:
        write_grey(tmp_path / f"imagenet/train/{wnid}/0.JPEG", 7)
        for number in range(1, 260):
            shutil.copy(tmp_path / f"imagenet/train/{wnid}/0.JPEG", tmp_path / f"imagenet/train/{wnid}/{number}.JPEG")
        write_grey(tmp_path / f"imagenet/val/{wnid}/0.JPEG", 8)
    prepared = prepare("imagenet250k", data=tmp_path / "data", source=tmp_path / "imagenet", progress=False)
    assert prepared.meta["splits"]["train"]["per_class"] == [250, 250]
    assert prepared.counts["test"] == 2


def test_imagenet250k_selects_images_from_other_kinds_of_source(tmp_path, choosing, write_npz):
    choosing(2)
    prepared = prepare("imagenet250k", data=tmp_path / "data", source=write_npz(), progress=False)
    assert prepared.meta["splits"]["train"]["per_class"] == [2, 2, 2]
    assert prepared.meta["split"].items() >= {"rule": "as given", "train_per_class": 2, "seed": 0}.items()


def test_bad_files_of_imagenet_are_named(tmp_path, imagenet, choosing, refused):
    folder = imagenet()
    nothing_says = refused("imagenet250k", folder)
    assert "the classes of the images in" in nothing_says and "are unknown" in nothing_says
    assert "LOC_val_solution.csv" in nothing_says
    write_solution(folder, [*VALIDATION, WNIDS[0]])
    assert "such as 'ILSVRC2012_val_00000007.JPEG'" in refused("imagenet250k", folder)
    write_solution(folder, [*VALIDATION[:5], "n00000001"])
    assert "into the class 'n00000001'" in refused("imagenet250k", folder)
    (folder / "LOC_val_solution.csv").write_text("something,else\n1,2\n")
    assert "LOC_val_solution.csv cannot be read" in refused("imagenet250k", folder)
    write_solution(folder)
    choosing(6)
    few = refused("imagenet250k", folder)
    assert "3 of the 3 classes of 'imagenet250k' have fewer than the 6 training images" in few
    assert f"'{WNIDS[0]}' has 5" in few
    choosing(5)
    (folder / f"train/{WNIDS[2]}/{WNIDS[2]}_4.JPEG").write_bytes(b"\xff\xd8\xff")
    assert f"train/{WNIDS[2]}/{WNIDS[2]}_4.JPEG cannot be decoded" in refused("imagenet250k", folder)
    shutil.rmtree(folder / f"train/{WNIDS[1]}")
    (folder / f"train/{WNIDS[1]}").mkdir()
    assert f"train/{WNIDS[1]} is missing or has no images" in refused("imagenet250k", folder)
    shutil.rmtree(folder / "val")
    assert "lack val" in refused("imagenet250k", folder)


def test_a_broken_devkit_is_named(imagenet, refused):
    folder = imagenet()
    write_devkit(folder)
    truth = folder / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n99\n")
    assert "into the class 'number 99'" in refused("imagenet250k", folder)
    truth.write_text("1\none\n")
    assert f"{truth} cannot be read" in refused("imagenet250k", folder)
    truth.unlink()
    assert f"{truth} is missing" in refused("imagenet250k", folder)
    (truth.parent / "meta.mat").write_bytes(b"MATLAB 5.0")
    assert "meta.mat cannot be read" in refused("imagenet250k", folder)
