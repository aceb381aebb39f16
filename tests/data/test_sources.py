"""Reading folders, Parquet shards and npz files, and the messages for bad ones."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdssl.data.prepare import prepare
from mdssl.data.sources.base import Reading
from mdssl.data.sources.open import detect_kind


@pytest.fixture
def prepared(tmp_path):
    """Prepare a source as "toy"."""
    return lambda source, **settings: prepare("toy", data=tmp_path / "data", source=source, progress=False, **settings)


@pytest.fixture
def refused(tmp_path, prepared):
    """Prepare a bad source and return the error message; decoded images may be left only if images are damaged."""

    def refuse(source, **settings):
        with pytest.raises(ValueError) as caught:
            prepared(source, **settings)
        left = [path.name for path in (tmp_path / "data").glob("*") if not path.name.endswith(".lock")]
        assert left == [] or left == ["downloads"] or "--skip-damaged" in str(caught.value)
        return str(caught.value)

    return refuse


def test_npz_images_and_labels_are_read_unchanged(write_npz, prepared):
    path = write_npz()
    toy = prepared(path)
    with np.load(path) as arrays:
        for split in ("train", "test"):
            assert np.array_equal(toy.split(split).images, arrays[f"{split}_images"])
            assert np.array_equal(toy.split(split).labels, arrays[f"{split}_labels"])
    assert toy.classes == ("cat", "dog", "owl")
    assert toy.meta["source"].items() >= {"kind": "npz", "origin": "toy.npz"}.items()


def test_npz_with_keras_names_label_columns_and_gray_images_is_read(tmp_path, rng, prepared):
    images, labels = rng.integers(0, 256, (10, 32, 32), dtype=np.uint8), np.arange(10)[:, None] % 2
    np.savez_compressed(tmp_path / "k.npz", x_train=images, y_train=labels, x_test=images[:4], y_test=labels[:4])
    toy = prepared(tmp_path / "k.npz")
    assert toy.classes == ("0", "1")
    assert np.array_equal(toy.split("test").images[..., 2], images[:4])


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"train_labels": np.array([-2] + [1] * 11)}, "negative label -2 in toy.npz train_images row 0"),
        ({"test_labels": np.array([0, 1, 2, 3, 1, 0])}, "label 3 in toy.npz test_images row 3 is out of range"),
        ({"test_labels": np.zeros(6, dtype=int)}, "single class 'cat'"),
        ({"train_labels": np.arange(12) % 2}, "no training image: 'owl'"),
        ({"train_labels": np.arange(12) * 10**9, "classes": None}, "14 different labels on 18 images"),
        ({"train_labels": np.arange(11)}, "one per image"),
        ({"train_labels": np.linspace(0, 1, 12)}, "are fractions"),
        ({"train_labels": np.zeros(12, dtype="datetime64[s]")}, "are datetime64"),
        ({"train_images": np.zeros((12, 32, 32, 3))}, "dtype float64"),
        ({"train_images": np.zeros((12, 3, 32, 32), dtype=np.uint8)}, "Move the channels last"),
        ({"train_images": None}, "needed are train_images"),
        ({"test_images": np.zeros((0, 32, 32), np.uint8), "test_labels": np.zeros(0, int)}, "empty test split"),
        ({"classes": np.array([object()])}, "cannot be read as npz"),
        ({"classes": np.array(["cat", "cat", "owl"])}, "different"),
    ],
)
def test_a_bad_npz_is_refused(write_npz, refused, replaced, message):
    assert message in refused(write_npz(**replaced))


@pytest.mark.parametrize("label", [3, 4, -2])
def test_labels_out_of_range_are_refused_for_selected_classes_too(write_npz, refused, label):
    path = write_npz(train_labels=np.array([label] + [1] * 11))
    assert f"label {label} in toy.npz train_images row 0" in refused(path, reading=Reading(classes=("cat", "owl")))


@pytest.mark.parametrize("kept", [0, 10, 1000, 40_000])
def test_a_truncated_npz_is_named(write_npz, refused, kept):
    path = write_npz()
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path} cannot be read as npz" in refused(path)


def test_class_folders_in_val_become_the_test_split(write_folder, random_images, prepared):
    train = {name: random_images(3) for name in ("dog", "cat")}
    val = {name: random_images(2) for name in ("dog", "cat")}
    toy = prepared(
        write_folder({f"train/{name}": x for name, x in train.items()} | {f"val/{name}": x for name, x in val.items()})
    )
    assert toy.classes == ("cat", "dog")
    assert toy.meta["split"]["rule"] == "validation as test"
    assert np.array_equal(toy.split("train").images, np.concatenate([train["cat"], train["dog"]]))
    assert np.array_equal(toy.split("test").images, np.concatenate([val["cat"], val["dog"]]))
    assert toy.split("test").labels.tolist() == [0, 0, 1, 1]


def test_files_in_class_folders_that_are_not_images_are_ignored(write_folder, random_images, prepared):
    root = write_folder({name: random_images(5) for name in ("cat", "dog")})
    (root / "cat" / "notes.txt").write_text("nice cats")
    (root / "cat" / ".hidden.png").write_bytes(b"")
    (root / ".git").mkdir()
    assert prepared(root).counts == {"train": 8, "test": 2}


def test_an_undecodable_file_is_named(write_folder, random_images, refused):
    root = write_folder({name: random_images(5) for name in ("cat", "dog")})
    (root / "dog" / "003.png").write_bytes(b"\x89PNG and nothing more")
    assert "photos/dog/003.png cannot be decoded" in refused(root)


def test_a_source_without_a_train_split_is_refused(write_folder, random_images, refused):
    root = write_folder({"test/cat": random_images(2), "test/dog": random_images(2)})
    assert "no train split" in refused(root)


def test_parquet_shards_are_joined_in_order(write_parquet, random_images, encode, prepared):
    images = random_images(23)
    pieces = {
        "train-00000-of-00002.parquet": slice(0, 9),
        "train-00001-of-00002.parquet": slice(9, 17),
        "test-00000-of-00001-0123abcd.parquet": slice(17, 23),
    }
    formats = ["PNG", "WEBP"]
    for file, piece in pieces.items():
        encoded = [encode(image, formats[i % 2], lossless=True) for i, image in enumerate(images[piece])]
        root = write_parquet(f"data/{file}", encoded, list(np.arange(23)[piece] % 3))
    toy = prepared(root)
    assert toy.meta["source"].items() >= {"kind": "parquet", "origin": "hub"}.items()
    assert toy.classes == ("cat", "dog", "owl")
    assert np.array_equal(toy.split("train").images, images[:17])
    assert np.array_equal(toy.split("test").images, images[17:])
    assert toy.split("test").labels.tolist() == (np.arange(17, 23) % 3).tolist()


def test_parquet_with_img_and_fine_label_columns_and_jpegs_is_read(write_parquet, random_images, encode, prepared):
    encoded = [encode(random_images(1, size)[0], "JPEG") for size in (20, 33, 64, 90) * 3]
    extra = {"coarse_label": [0] * 12}
    root = write_parquet("train.parquet", encoded, [0, 1] * 6, image="img", label="fine_label", names=None, extra=extra)
    toy = prepared(root, test_fraction=0.5)
    assert toy.classes == ("0", "1")
    assert toy.counts == {"train": 6, "test": 6}
    assert toy.meta["split"]["rule"] == "stratified"


def test_a_single_parquet_file_is_read(write_parquet, random_images, encode, prepared):
    root = write_parquet("everything.parquet", [encode(image) for image in random_images(12)], [0, 1, 2] * 4)
    assert prepared(root / "everything.parquet").counts == {"train": 9, "test": 3}


@pytest.fixture
def shard(write_parquet, random_images, encode):
    """Write a train shard of 8 images with the given changes."""

    def write(labels=(0, 1, 2, 0, 1, 2, 0, 1), content=None, file="train-00000-of-00001.parquet", **settings):
        encoded = [encode(image) for image in random_images(len(labels))]
        if content is not None:
            encoded[5] = content
        return write_parquet(file, encoded, list(labels), **settings)

    return write


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": (0, 1, 2, 0, 1, 2, -3, 1)}, "negative label -3 in hub/train-00000-of-00001.parquet row 6"),
        ({"labels": (0, 1, 2, 9, 1, 2, 0, 1)}, "label 9 in hub/train-00000-of-00001.parquet row 3 is out of range"),
        ({"labels": ([0], [1]) * 4}, "are list"),
        ({"labels": tuple("abcdefgh")}, "8 different labels on 8 images, such as h: these are not classes"),
        ({"labels": (0,) * 8}, "single class 'cat'"),
        ({"content": b"no image"}, "hub/train-00000-of-00001.parquet row 5 cannot be decoded"),
        ({"label": "species"}, "such as --label-column species, or read the images without labels with --classes none"),
        ({"extra": {"img": [b""] * 8}, "image": "photo"}, "row 0 cannot be decoded: it is empty"),
        ({"file": "train-00000-of-00003.parquet"}, "number 00001 is missing"),
    ],
)
def test_a_bad_shard_is_refused(shard, refused, changed, message):
    assert message in refused(shard(**changed))


def test_an_image_without_bytes_is_named(shard, refused, write_parquet):
    root = write_parquet("train.parquet", [None] * 6, [0, 1] * 3)
    assert "hub/train.parquet row 0 cannot be decoded: it is empty" in refused(root)
    table = pq.read_table(root / "train.parquet").to_pydict()
    pq.write_table(pa.table(table | {"image": [{"bytes": None, "path": "gone.png"}] * 6}), root / "train.parquet")
    assert f"hub/train.parquet row 0 is missing: there is no file {root / 'gone.png'}." in refused(root)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_shard_is_named(shard, refused, kept):
    path = shard() / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert f"{path} cannot be read as Parquet" in refused(path.parent)


def test_shards_with_different_classes_are_refused(shard, refused):
    shard(file="test-00000-of-00001.parquet", names=("cat", "dog", "cow"))
    assert "name different classes" in refused(shard())


def test_the_kind_of_a_source_is_detected_from_its_path(tmp_path, write_npz, write_folder, shard, random_images):
    (tmp_path / "arrays").mkdir()
    npz = write_npz("arrays/toy.npz")
    photos = write_folder({"cat": random_images(1), "dog": random_images(1)})
    assert detect_kind("toy", npz) == detect_kind("toy", npz.parent) == "npz"
    capitals = npz.rename(npz.with_suffix(".NPZ"))
    assert detect_kind("toy", capitals) == detect_kind("toy", npz.parent) == "npz"
    assert detect_kind("toy", photos) == "folder"
    assert detect_kind("cifar10", shard()) == "parquet"
    assert detect_kind("cifar10", None) == "published"
    assert detect_kind("builtin-shapes", None) == "builtin"


def test_raw_files_beside_a_source_do_not_change_its_kind(shard):
    root = shard()
    for file in ("train_32x32.mat", "test_32x32.mat"):
        (root.parent / file).write_bytes(b"")
    assert detect_kind("svhn", root) == "parquet"
    assert detect_kind("svhn", root.parent) == detect_kind("svhn", root.parent / "test_32x32.mat") == "published"


@pytest.mark.parametrize(
    ("file", "hint"),
    [("a.zip", "unpack them first"), ("a.tar.gz", "unpack them first"), ("a.dcm", "convert them first")],
)
def test_archives_and_dicom_files_are_refused_with_a_hint(tmp_path, refused, file, hint):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / file).write_bytes(b"some")
    assert hint in refused(tmp_path / "scans")
    assert hint in refused(tmp_path / "scans" / file)


@pytest.mark.parametrize("shape", [(12, 28, 28, 28), (12, 28, 28, 28, 1)])
def test_volumes_are_refused(write_npz, refused, shape):
    assert "look like volumes, as in the 3D datasets of MedMNIST" in refused(
        write_npz(train_images=np.zeros(shape, dtype=np.uint8))
    )


@pytest.mark.parametrize(
    ("file", "reading", "message"),
    [
        ("toy.npz", {"splits": {}}, "Leave --splits and --label-column out"),
        ("hub/train.parquet", {"splits": {"train": "train.parquet"}}, "train.parquet is one file. Leave --splits out"),
        ("hub/train.parquet", {"classes": (), "label_column": "label"}, "'label', but --classes none reads no labels"),
    ],
)
def test_options_that_a_source_cannot_follow_are_refused(write_npz, shard, tmp_path, file, reading, message):
    write_npz()
    shard(file="train.parquet")
    with pytest.raises(ValueError, match=message):
        prepare("toy", data=tmp_path / "data", source=tmp_path / file, progress=False, reading=Reading(**reading))


def test_missing_empty_and_unknown_sources_are_refused(tmp_path, refused):
    (tmp_path / "empty").mkdir()
    assert "does not exist" in refused(tmp_path / "nowhere")
    assert "has no readable files" in refused(tmp_path / "empty")
    assert "allowed: published, folder, parquet" in refused(tmp_path / "empty", kind="tfrecord")
    for kind in ("folder", "parquet", "npz", "published"):
        refused(tmp_path / "empty", kind=kind)
