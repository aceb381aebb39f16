"""What `mdssl data prepare` reports about the images that it used and left out."""

import json

import pytest
from factories import each
from PIL import Image

from mdssl.cli.main import main
from mdssl.data.dataset import open_dataset
from mdssl.data.summary import summary


def test_left_out_files_are_counted_and_recorded(photos, prepared, tmp_path):
    root = photos(*each("train/cat", "train/dog", "val/cat", "val/dog", "test/cat", "test/dog", "masks/cat"))
    for name in ("train/cat/notes.txt", "train/more.txt", "train/cat/.hidden.png", "train/dog/@eaDir/x.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"")
    (root / "train/cow").mkdir()
    (root / "train/dog/gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "train/dog/again").symlink_to(root / "train")
    (root / "train/dog/linked.png").symlink_to(root / "train/dog/0.png")
    toy = prepared(root)
    assert toy.counts == {"train": 5, "test": 4}
    assert {reason: left["count"] for reason, left in toy.meta["left_out"].items()} == {
        "files without an image suffix (.txt)": 2,
        "hidden files and folders": 2,
        "folders without images": 1,
        "broken links": 1,
        "links to a parent folder": 1,
        "images outside the split folders": 2,
        "validation images, because there is a test split": 4,
    }
    assert toy.meta["split"]["from"] == {"train": "train", "test": "test"}
    said = "\n".join(summary(toy))
    assert "left out: files without an image suffix (.txt): 2, such as train/cat/notes.txt" in said
    assert "followed links: 1, such as train/dog/linked.png" in said
    assert "training images that are copies of another, by their pixels: 1" in said
    assert "cat 2/2, dog 3/2" in said
    assert open_dataset(tmp_path / "data", "toy").meta == toy.meta


@pytest.mark.parametrize(
    ("folders", "split"),
    [
        (("train/cat", "train/dog", "test"), "chosen with seed 0 (train from train)"),
        (("train/cat", "train/dog", "val/cat", "val/dog", "test"), "(train from train, validation from val)"),
        (("train", "test/cat", "test/dog"), "no labels: for pretraining only (train from train)"),
    ],
)
def test_a_test_split_that_is_left_out_is_not_said_to_be_used(folders, split, photos, prepared):
    assert next(summary(prepared(photos(*each(*folders)), test_fraction=0.5))).endswith(split)


def test_a_class_of_the_left_out_validation_split_alone_is_left_out(photos, prepared):
    toy = prepared(photos(*each(*(f"{split}/{name}" for split in ("train", "test") for name in "ab"), "val/owl")))
    assert toy.classes == ("a", "b")
    assert toy.meta["left_out"]["classes without an image"] == {"count": 1, "example": "owl"}
    assert toy.meta["split"]["from"] == {"train": "train", "test": "test"}


def test_damaged_images_are_all_named_and_left_out_on_request(photos, prepared):
    root = photos(*(f"{name}/{number:02}.png" for name in ("cat", "dog") for number in range(20)))
    whole = prepared(root, "whole")
    for name in ("cat/03.png", "cat/11.png", "dog/07.png"):
        (root / name).write_bytes((root / name).read_bytes()[:60])
    with pytest.raises(ValueError, match=r"3 images of 'toy' are damaged") as caught:
        prepared(root)
    for name in ("cat/03.png", "cat/11.png", "dog/07.png"):
        assert name in str(caught.value)
    toy = prepared(root, skip_damaged=True)
    assert sum(toy.counts.values()) == 37
    left = toy.meta["left_out"]["damaged images"]
    assert left["count"] == len(left["all"]) == 3
    toy.check_fingerprints()
    kept = {image.tobytes() for split in ("train", "test") for image in toy.split(split).images}
    every = [image.tobytes() for split in ("train", "test") for image in whole.split(split).images]
    assert kept < set(every)
    for split in ("train", "test"):
        labels = dict(zip((x.tobytes() for x in whole.split(split).images), whole.split(split).labels, strict=True))
        own = toy.split(split)
        assert [labels[image.tobytes()] for image in own.images] == own.labels.tolist()


def test_summary_counts_images_with_several_frames_or_pages(photos, prepared, tmp_path):
    root = photos(*each("cat", "dog"))
    pages = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 20, 30)]
    pages[0].save(root / "cat/stack.tif", save_all=True, append_images=pages[1:])
    pages[0].save(root / "dog/film.gif", save_all=True, append_images=pages[1:])
    toy = prepared(root, test_fraction=0.5)
    assert "images with several frames or pages; the first is used: 2" in summary(toy)


def test_test_images_that_occur_in_the_train_split_are_counted(photos, prepared):
    root = photos(*each("train/cat", "train/dog", "test/cat", "test/dog"))
    for label in ("cat", "dog"):
        (root / f"test/{label}/0.png").write_bytes((root / f"train/{label}/0.png").read_bytes())
    toy = prepared(root)
    assert toy.meta["same_pixels"] == {"test_in_train": 2, "within_train": 0}
    assert "test images with the pixels of a training image: 2" in summary(toy)


def test_prepare_show_and_list_report_left_out_images(photos, tmp_path, monkeypatch, capsys):
    root = photos(*each("cat", "dog", "train"), "train/deep/er.png")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "prepare", "toy", "--source", str(root), "--splits", "train:cat"]) == 2
    assert "splits has 'train:cat'; write SPLIT=FOLDER_OR_FILE" in capsys.readouterr().err
    assert main(["data", "prepare", "toy", "--source", str(root), "--splits", "none", "--classes", "cat", "train"]) == 0
    told = capsys.readouterr().out
    assert "left out: images of classes that were not selected: 2, such as dog/0.png" in told
    assert json.loads((tmp_path / "data/toy/meta.json").read_text())["classes"] == ["cat", "train"]
    assert main(["data", "show", "toy"]) == 0
    assert "left out: images of classes that were not selected: 2" in capsys.readouterr().out
    assert main(["data", "list"]) == 0
    assert "2 left out, see `mdssl data show toy`" in capsys.readouterr().out


def test_a_subset_of_a_published_dataset_is_marked_as_a_variant(tmp_path, photos, prepared, capsys, monkeypatch):
    root = photos(*each("train/cat", "train/dog", "test/cat", "test/dog"))
    part = prepared(root, "svhn", image_size=32)
    assert part.variant == "2 of 10 classes"
    assert next(summary(part)) == "not the published svhn: 2 of 10 classes"
    monkeypatch.chdir(tmp_path)
    assert main(["data", "list"]) == 0
    assert "svhn (2 of 10 classes)" in capsys.readouterr().out
    # Older versions did not record the variant.
    path = tmp_path / "data/svhn/meta.json"
    meta = json.loads(path.read_text())
    del meta["variant"]
    path.write_text(json.dumps(meta))
    assert open_dataset(tmp_path / "data", "svhn").variant == "2 of 10 classes"


@pytest.mark.parametrize("broken", ["cat", "all"])
def test_skip_damaged_is_refused_if_a_class_would_be_empty(broken, photos, prepared):
    root = photos(*each("train/cat", "train/dog", "test/cat", "test/dog"))
    for path in root.rglob("*.png"):
        if broken == "all" or (path.parts[-2:-1] == ("cat",) and "train" in path.parts):
            path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="all train images of .* are damaged"):
        prepared(root, skip_damaged=True)
