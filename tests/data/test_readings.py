"""What a source is taken for, what is told of it, and what is refused because it can be read in two ways."""

import json
import os
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mdssl.cli.main import main
from mdssl.data.dataset import open_dataset
from mdssl.data.prepare import prepare
from mdssl.data.sources.base import Findings, Reading
from mdssl.data.sources.folder import layout
from mdssl.data.splits import split_of
from mdssl.data.summary import summary


def read(files, **reading):
    """Split to its files by class folder; None stands for images without one."""
    found = layout(sorted(files), Reading(**reading), "photos", Findings())
    return {
        split: {name.partition("/")[0] if "/" in name else None for name in rows.values()}
        for split, rows in found.items()
        if rows
    }


def each(*folders):
    return [f"{folder}/{number}.png" for folder in folders for number in range(2)]


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
def test_folders_are_read_as_their_names_say(folders, expected):
    assert read(each(*folders)) == expected


def test_images_alone_are_one_split_without_classes():
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
def test_what_is_no_clear_class_is_refused(folders):
    with pytest.raises(ValueError, match="--splits"):
        read(each(*folders))


def test_a_folder_of_the_same_name_in_each_class_is_no_question():
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
def test_two_readings_are_refused_with_the_option_that_decides(folders):
    with pytest.raises(ValueError, match="--splits"):
        read(each(*folders))
    first = next(folder.partition("/")[0] for folder in folders if "/" in folder)
    assert "train" in read(each(*folders), splits={})
    assert set(read(each(*folders), splits={"train": first})) == {"train"}


def test_options_decide(tmp_path):
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
def test_split_names_are_those_of_hugging_face(name, split):
    assert split_of(name) == split


@pytest.fixture
def photos(tmp_path):
    """Write images of different colours below ``photos``; the paths of folders, or of files."""
    rng = np.random.default_rng(0)

    def write(*paths, root="photos"):
        for path in paths:
            file = tmp_path / root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
        return tmp_path / root

    return write


@pytest.fixture
def prepared(tmp_path):
    def run(source, name="toy", **settings):
        settings = {"image_size": 8, "workers": 1, "progress": False} | settings
        return prepare(name, data=tmp_path / "data", source=source, **settings)

    return run


def test_what_was_left_out_is_counted_and_kept(photos, prepared, tmp_path):
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
    assert toy.meta["split"]["from"] == {"train": "train", "validation": "val", "test": "test"}
    said = "\n".join(summary(toy))
    assert "left out: files without an image suffix (.txt): 2, such as train/cat/notes.txt" in said
    assert "followed links: 1, such as train/dog/linked.png" in said
    assert "training images with the pixels of another training image: 1" in said
    assert "cat 2/2, dog 3/2" in said
    assert open_dataset(tmp_path / "data", "toy").meta == toy.meta


def test_all_damaged_images_are_named_at_once_and_left_out_where_asked(photos, prepared):
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
    assert toy.meta["left_out"]["damaged images"]["count"] == 3
    toy.check_fingerprints()
    kept = {image.tobytes() for split in ("train", "test") for image in toy.split(split).images}
    every = [image.tobytes() for split in ("train", "test") for image in whole.split(split).images]
    assert kept < set(every)
    for split in ("train", "test"):
        labels = dict(zip((x.tobytes() for x in whole.split(split).images), whole.split(split).labels, strict=True))
        own = toy.split(split)
        assert [labels[image.tobytes()] for image in own.images] == own.labels.tolist()


def test_pages_after_the_first_are_said_to_be_left_out(photos, prepared, tmp_path):
    root = photos(*each("cat", "dog"))
    pages = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 20, 30)]
    pages[0].save(root / "cat/stack.tif", save_all=True, append_images=pages[1:])
    pages[0].save(root / "dog/film.gif", save_all=True, append_images=pages[1:])
    toy = prepared(root, test_fraction=0.5)
    assert "images with several frames or pages; the first is used: 2" in summary(toy)


def test_test_images_that_are_training_images_are_counted(photos, prepared):
    root = photos(*each("train/cat", "train/dog", "test/cat", "test/dog"))
    for label in ("cat", "dog"):
        (root / f"test/{label}/0.png").write_bytes((root / f"train/{label}/0.png").read_bytes())
    toy = prepared(root)
    assert toy.meta["same_pixels"] == {"test_in_train": 2, "within_train": 0}
    assert "test images with the pixels of a training image: 2" in summary(toy)


@pytest.mark.parametrize(
    "files", [["0.png", "1.png", "sub/2.png"], each("all"), each("train", "test"), each("train/x")]
)
def test_images_without_labels_are_a_domain_to_train_on(files, photos, prepared):
    toy = prepared(photos(*files))
    assert not toy.is_labelled
    assert toy.counts["train"] == toy.counts["test"] == 0
    assert toy.pretraining_count == len(toy.pretraining_images()) == len([f for f in files if "test" not in f])
    toy.check_fingerprints()


def test_class_folders_can_be_taken_without_labels_or_in_part(photos, prepared):
    root = photos(*each("2024", "2025", "2026"))
    assert prepared(root, "all", reading=Reading(classes=())).pretraining_count == 6
    two = prepared(root, "two", reading=Reading(classes=("2026", "2024")), test_fraction=0.5)
    assert two.classes == ("2026", "2024")
    assert two.meta["left_out"]["images of classes that were not selected"]["count"] == 2
    with pytest.raises(ValueError, match=r"unknown class of photos '2027'; allowed: 2024, 2025, 2026"):
        prepared(root, "none", reading=Reading(classes=("2027",)))


def test_classes_of_images_without_labels_are_refused_with_the_reason(photos, prepared, tmp_path):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "bare.npz", images=images)
    for source in (photos(*each("all")), tmp_path / "bare.npz"):
        with pytest.raises(ValueError, match="classes cat, dog cannot be selected: the images of .* have no labels"):
            prepared(source, reading=Reading(classes=("cat", "dog")))


def test_accents_in_two_encodings_are_one_class(photos, prepared):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    toy = prepared(photos(*each(f"train/{composed}", "train/dog", f"test/{decomposed}", "test/dog")))
    assert toy.classes == ("café", "dog")
    assert toy.meta["splits"]["test"]["per_class"] == [2, 2]
    with pytest.raises(ValueError, match="two class folders of train have the same name"):
        prepared(photos(*each(f"train/{decomposed}")), overwrite=True)


def test_names_that_are_no_utf8_are_one_message(photos, prepared):
    root = photos(*each("cat", "dog"))
    os.rename(os.fsencode(root / "cat"), os.fsencode(root) + b"/caf\xe9")
    with pytest.raises(ValueError, match=r"paths of 2 images are not valid UTF-8, such as 'caf\\udce9/0.png'; rename"):
        prepared(root)


def shard(path, labels, images=None, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(abs(hash(path.name)) % 2**32)
    count = len(next(iter([labels, *columns.values()] if labels is not None else columns.values())))
    buffers = []
    for _ in range(count):
        sink = pa.BufferOutputStream()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(sink, "PNG")
        buffers.append({"bytes": sink.getvalue().to_pybytes(), "path": None})
    named = {"image": images or buffers} | ({} if labels is None else {"label": labels}) | columns
    pq.write_table(pa.table(named), path)
    return path


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["dog", "cat"] * 4, ("cat", "dog")),
        (pa.array(["dog", "cat"] * 4).dictionary_encode(), ("cat", "dog")),
        ([True, False] * 4, ("False", "True")),
        ([0.0, 1.0] * 4, ("0", "1")),
        ([7, 11, 3, 7] * 2, ("3", "7", "11")),
        ([17, 10**6] * 4, ("17", "1000000")),
    ],
)
def test_labels_of_any_kind_become_class_numbers(labels, classes, tmp_path, prepared):
    source = shard(tmp_path / "hub/train.parquet", labels)
    toy = prepared(source, test_fraction=0.5)
    assert toy.classes == classes
    plain = labels.to_pylist() if isinstance(labels, pa.Array) else labels
    counts = np.add(*(toy.meta["splits"][split]["per_class"] for split in ("train", "test")))
    as_text = [str(int(x)) if isinstance(x, float) else str(x) for x in plain]
    assert dict(zip(classes, counts, strict=True)) == {name: as_text.count(name) for name in classes}


def test_an_npz_and_parquet_with_the_same_labels_are_the_same(tmp_path, prepared):
    labels = [7, 11, 3, 7] * 3
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels)
    encoded = []
    for image in images:
        sink = pa.BufferOutputStream()
        Image.fromarray(image).save(sink, "PNG")
        encoded.append({"bytes": sink.getvalue().to_pybytes(), "path": None})
    shard(tmp_path / "hub/train.parquet", labels, encoded)
    one, other = prepared(tmp_path / "a.npz", "a"), prepared(tmp_path / "hub", "b")
    assert (one.classes, one.fingerprints) == (other.classes, other.fingerprints)
    assert one.meta["remarks"] == other.meta["remarks"] != []


def test_rows_without_a_label_are_trained_on_and_never_scored(tmp_path, prepared):
    shard(tmp_path / "hub/train.parquet", [0, 1, None, -1] * 3)
    shard(tmp_path / "hub/test.parquet", [0, 1, None, 1])
    toy = prepared(tmp_path / "hub")
    assert toy.counts == {"train": 6, "test": 3, "unlabelled": 6}
    assert toy.meta["left_out"]["test images without a label"]["count"] == 1


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path, prepared):
    for split, labels in (("train", [0, 1] * 4), ("validation", [0, 1] * 2), ("test", [-1] * 3)):
        shard(tmp_path / f"hub/data/{split}-00000-of-00001.parquet", labels)
    toy = prepared(tmp_path / "hub")
    assert toy.counts == {"train": 8, "test": 4}
    assert toy.meta["left_out"]["test images without a label"]["count"] == 3


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ("train.parquet", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"),
            "several uploads for train",
        ),
        (("train-00000-of-00001-1111.parquet", "train-00000-of-00001-2222.parquet"), "several uploads for train"),
        (("train.parquet", "data/train.parquet"), r"in the folders \., data"),
        (("one/train.parquet", "two/train.parquet"), "in the folders one, two"),
    ],
)
def test_files_of_two_uploads_are_refused(files, message, tmp_path, prepared):
    for file in files:
        shard(tmp_path / "hub" / file, [0, 1] * 4)
    with pytest.raises(ValueError, match=f"{message}.*--"):
        prepared(tmp_path / "hub")
    assert prepared(tmp_path / "hub", reading=Reading(splits={"train": files[-1]})).pretraining_count == 6


@pytest.mark.parametrize("folder", ["plain_text", "default/train", "data"])
def test_shards_in_subfolders_are_found(folder, tmp_path, prepared):
    shard(tmp_path / "hub" / folder / "train-00000-of-00001.parquet", [0, 1] * 5)
    assert sum(prepared(tmp_path / "hub").counts.values()) == 10


def test_parquet_that_says_no_split_is_left_out_beside_what_does(tmp_path, prepared):
    for split in ("train", "test", "extra"):
        shard(tmp_path / f"hub/{split}.parquet", [0, 1] * 3)
    toy = prepared(tmp_path / "hub")
    assert toy.counts == {"train": 6, "test": 6}
    assert toy.meta["left_out"]["Parquet files without the name of a split"] == {"count": 1, "example": "extra.parquet"}


def test_columns_of_other_names_are_asked_for(tmp_path, prepared):
    shard(tmp_path / "hub/train.parquet", None, species=["cat", "dog"] * 3)
    with pytest.raises(ValueError, match=r"--label-column species, or .* --classes none"):
        prepared(tmp_path / "hub")
    assert prepared(tmp_path / "hub", reading=Reading(label_column="species"), test_fraction=0.4).classes == (
        "cat",
        "dog",
    )
    assert not prepared(tmp_path / "hub", "bare", reading=Reading(classes=())).is_labelled
    shard(tmp_path / "alone/train.parquet", None, file_name=["a", "b"])
    assert prepared(tmp_path / "alone", "alone").pretraining_count == 2


@pytest.mark.parametrize(
    "said", [b"", b"{", b"null", b'{"info": null}', b'{"info": {"features": {"label": {"names": 3}}}}']
)
def test_class_names_that_cannot_be_read_are_left_out_and_said(said, tmp_path, prepared):
    path = shard(tmp_path / "hub/train.parquet", [0, 1] * 5)
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"huggingface": said}), path)
    toy = prepared(path)
    assert toy.classes == ("0", "1")
    assert any("cannot be read; the labels are used as class names" in remark for remark in toy.meta["remarks"])


def test_a_source_of_two_kinds_is_refused(photos, prepared):
    root = photos(*each("cat", "dog"))
    np.savez(root / "features.npz", x_train=np.zeros((4, 8, 8, 3), np.uint8), y_train=[0, 1, 0, 1])
    with pytest.raises(
        ValueError, match=r"2 ways: it has 1 npz file, 4 image files\. Decide with --kind npz or --kind f"
    ):
        prepared(root)
    assert prepared(root, kind="folder", test_fraction=0.5).classes == ("cat", "dog")


@pytest.mark.parametrize("change", ["another file", "other pixels"])
def test_a_source_that_has_changed_is_said(change, photos, prepared):
    root = photos(*each("cat", "dog"))
    before = prepared(root, test_fraction=0.5)
    assert prepared(root, test_fraction=0.5).meta == before.meta
    photos("cat/9.png" if change == "another file" else "cat/0.png")
    with pytest.raises(ValueError, match=r"before it was changed \(4 files.*--overwrite"):
        prepared(root, test_fraction=0.5)
    assert prepared(root, test_fraction=0.5, overwrite=True).fingerprints != before.fingerprints


def test_other_readings_need_overwrite(photos, prepared):
    root = photos(*each("cat", "dog", "cow"))
    prepared(root, test_fraction=0.5)
    with pytest.raises(ValueError, match=r"classes None, not \['cat', 'dog'\].*--overwrite"):
        prepared(root, test_fraction=0.5, reading=Reading(classes=("cat", "dog")))


def test_the_command_tells_and_show_and_list_tell_again(photos, tmp_path, monkeypatch, capsys):
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


def test_a_part_of_a_published_dataset_is_marked(tmp_path, photos, prepared, capsys, monkeypatch):
    root = photos(*each("train/cat", "train/dog", "test/cat", "test/dog"))
    part = prepared(root, "svhn", image_size=32)
    assert part.variant == "2 of 10 classes"
    assert next(summary(part)) == "not the published svhn: 2 of 10 classes"
    monkeypatch.chdir(tmp_path)
    assert main(["data", "list"]) == 0
    assert "svhn (2 of 10 classes)" in capsys.readouterr().out
    # Recorded before there was such a mark.
    path = tmp_path / "data/svhn/meta.json"
    meta = json.loads(path.read_text())
    del meta["variant"]
    path.write_text(json.dumps(meta))
    assert open_dataset(tmp_path / "data", "svhn").variant == "2 of 10 classes"


def test_the_validation_split_of_dtd_belongs_to_its_train_split(tmp_path, prepared):
    for split in ("train", "validation", "test"):
        shard(tmp_path / f"hub/{split}.parquet", [0, 1] * 4)
    assert prepared(tmp_path / "hub", "dtd").counts == {"train": 16, "test": 8}
    assert prepared(tmp_path / "hub", "other").counts == {"train": 8, "test": 8}


@pytest.mark.parametrize(
    "splits", [{"train": "a", "test": "./a"}, {"train": ".", "test": "a"}, {"train": "a", "test": "a/b"}]
)
def test_splits_that_overlap_are_refused(splits):
    with pytest.raises(ValueError, match="Give each split a separate folder or file"):
        Reading(splits=splits)


def test_minus_one_is_no_label_and_said(tmp_path, prepared):
    toy = prepared(shard(tmp_path / "a.parquet", [-1, 0, 1, 1, 0]), test_fraction=0.5)
    assert toy.counts["unlabelled"] == 1
    assert "the label -1 means no label; classes are numbered from 0" in toy.meta["remarks"]
    with pytest.raises(ValueError, match="-1 and 1.*number the classes from 0"):
        prepared(shard(tmp_path / "b.parquet", [-1, 1] * 4), "b")


@pytest.mark.parametrize("keys", [("x_train", "train_labels"), ("train_images", "y_train"), ("images", "labels")])
def test_arrays_of_mixed_styles_keep_their_labels(keys, tmp_path, prepared):
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", **dict(zip(keys, (images, np.arange(8) % 2), strict=True)))
    assert prepared(tmp_path / "a.npz", test_fraction=0.5).classes == ("0", "1")


@pytest.mark.parametrize("broken", ["cat", "all"])
def test_skipping_damaged_images_leaves_no_class_empty(broken, photos, prepared):
    root = photos(*each("train/cat", "train/dog", "test/cat", "test/dog"))
    for path in root.rglob("*.png"):
        if broken == "all" or (path.parts[-2:-1] == ("cat",) and "train" in path.parts):
            path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="all train images of .* are damaged"):
        prepared(root, skip_damaged=True)


def test_names_that_are_no_utf8_of_other_files_are_written_as_they_can_be(photos, prepared):
    root = photos(*each("cat", "dog"))
    (root / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"")
    moved = root.rename(os.fsdecode(os.fsencode(root) + b"\xe9"))
    toy = prepared(moved, test_fraction=0.5)
    assert toy.meta["left_out"]["files without an image suffix (.txt)"]["example"] == "caf\\udce9.txt"


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b"\x93NUMPY", b""])
def test_what_is_no_npz_is_said(content, tmp_path, prepared):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as npz: it is not a zip file of arrays"):
        prepared(tmp_path / "a.npz")


def test_columns_that_are_not_read_are_said(tmp_path, prepared):
    toy = prepared(shard(tmp_path / "a.parquet", [0, 1] * 4, split=["x"] * 8, target=[1] * 8))
    assert "columns used: image, label; not used: split, target" in toy.meta["remarks"]


def test_an_image_that_is_null_can_be_left_out(tmp_path, prepared):
    path = shard(tmp_path / "a.parquet", [0, 1] * 4)
    table = pq.read_table(path).to_pydict()
    table["image"][3] = None
    pq.write_table(pa.table(table), path)
    with pytest.raises(ValueError, match="row 3 cannot be decoded: it is empty"):
        prepared(path)
    assert sum(prepared(path, skip_damaged=True).counts.values()) == 7
