"""How labels, splits and columns of Parquet shards and npz arrays are interpreted, and which are refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mdssl.data.sources import parquet
from mdssl.data.sources.base import Reading
from mdssl.data.sources.parquet import parquet_source


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
def test_labels_of_any_type_become_class_numbers(labels, classes, tmp_path, prepared):
    source = shard(tmp_path / "hub/train.parquet", labels)
    toy = prepared(source, test_fraction=0.5)
    assert toy.classes == classes
    plain = labels.to_pylist() if isinstance(labels, pa.Array) else labels
    counts = np.add(*(toy.meta["splits"][split]["per_class"] for split in ("train", "test")))
    as_text = [str(int(x)) if isinstance(x, float) else str(x) for x in plain]
    assert dict(zip(classes, counts, strict=True)) == {name: as_text.count(name) for name in classes}


def test_npz_and_parquet_of_the_same_images_give_the_same_dataset(tmp_path, prepared):
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


def test_only_row_groups_with_wanted_rows_are_read(tmp_path, monkeypatch):
    labels = np.arange(30) % 3
    for number in range(2):
        path = shard(tmp_path / f"hub/train-0000{number}-of-00002.parquet", labels)
        pq.write_table(pq.read_table(path), path, row_group_size=7)
    part, read, iter_batches = parquet_source(tmp_path / "hub").parts["train"], [], pq.ParquetFile.iter_batches

    def counted(*arguments, **options):
        for batch in iter_batches(*arguments, **options):
            read.append(len(batch))
            yield batch

    monkeypatch.setattr(parquet, "_BATCH_ROWS", 5)
    every = list(part.read(np.arange(60)))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    for rows, most in (([0, 1], 5), ([29], 2), ([3, 15, 16, 28, 29, 59], 7 + 7 + 2 + 2), ([], 0)):
        read.clear()
        assert list(part.read(np.array(rows, dtype=int))) == [every[row] for row in rows]
        assert sum(read) <= most


def test_rows_without_a_label_are_used_only_for_pretraining(tmp_path, prepared):
    shard(tmp_path / "hub/train.parquet", [0, 1, None, -1] * 3)
    shard(tmp_path / "hub/test.parquet", [0, 1, None, 1])
    toy = prepared(tmp_path / "hub")
    assert toy.counts == {"train": 6, "test": 3, "unlabelled": 6}
    assert toy.meta["left_out"]["test images without a label"]["count"] == 1


def test_the_validation_split_replaces_a_test_split_without_labels(tmp_path, prepared):
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


def test_parquet_without_a_split_name_is_left_out_if_others_have_one(tmp_path, prepared):
    for split in ("train", "test", "extra"):
        shard(tmp_path / f"hub/{split}.parquet", [0, 1] * 3)
    toy = prepared(tmp_path / "hub")
    assert toy.counts == {"train": 6, "test": 6}
    assert toy.meta["left_out"]["Parquet files without the name of a split"] == {"count": 1, "example": "extra.parquet"}


def test_unknown_label_columns_are_refused_with_the_options_to_use(tmp_path, prepared):
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
def test_unreadable_class_names_are_replaced_by_labels_with_a_remark(said, tmp_path, prepared):
    path = shard(tmp_path / "hub/train.parquet", [0, 1] * 5)
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"huggingface": said}), path)
    toy = prepared(path)
    assert toy.classes == ("0", "1")
    assert any("cannot be read; the labels are used as class names" in remark for remark in toy.meta["remarks"])


def test_the_validation_split_of_dtd_is_joined_to_its_train_split(tmp_path, prepared):
    for split in ("train", "validation", "test"):
        shard(tmp_path / f"hub/{split}.parquet", [0, 1] * 4)
    assert prepared(tmp_path / "hub", "dtd").counts == {"train": 16, "test": 8}
    assert prepared(tmp_path / "hub", "other").counts == {"train": 8, "test": 8}


def test_label_minus_one_means_no_label(tmp_path, prepared):
    toy = prepared(shard(tmp_path / "a.parquet", [-1, 0, 1, 1, 0]), test_fraction=0.5)
    assert toy.counts["unlabelled"] == 1
    assert "the label -1 means no label; classes are numbered from 0" in toy.meta["remarks"]
    with pytest.raises(ValueError, match="-1 and 1.*number the classes from 0"):
        prepared(shard(tmp_path / "b.parquet", [-1, 1] * 4), "b")


@pytest.mark.parametrize("keys", [("x_train", "train_labels"), ("train_images", "y_train"), ("images", "labels")])
def test_npz_arrays_of_mixed_naming_styles_keep_their_labels(keys, tmp_path, prepared):
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", **dict(zip(keys, (images, np.arange(8) % 2), strict=True)))
    assert prepared(tmp_path / "a.npz", test_fraction=0.5).classes == ("0", "1")


def test_class_names_beside_text_labels_are_said_to_be_unused(tmp_path, prepared):
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=["owl", "cat"] * 4, classes=["owl", "cat"])
    toy = prepared(tmp_path / "a.npz", test_fraction=0.5)
    assert toy.classes == ("cat", "owl")
    assert any("so the separate class names and their order are not used" in remark for remark in toy.meta["remarks"])


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b"\x93NUMPY", b""])
def test_a_file_that_is_not_an_npz_is_refused(content, tmp_path, prepared):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as npz: it is not a zip file of arrays"):
        prepared(tmp_path / "a.npz")


def test_unused_columns_are_listed_in_the_remarks(tmp_path, prepared):
    toy = prepared(shard(tmp_path / "a.parquet", [0, 1] * 4, split=["x"] * 8, target=[1] * 8))
    assert "columns used: image, label; not used: split, target" in toy.meta["remarks"]


def test_null_images_are_left_out_with_skip_damaged(tmp_path, prepared):
    path = shard(tmp_path / "a.parquet", [0, 1] * 4)
    table = pq.read_table(path).to_pydict()
    table["image"][3] = None
    pq.write_table(pa.table(table), path)
    with pytest.raises(ValueError, match="row 3 cannot be decoded: it is empty"):
        prepared(path)
    assert sum(prepared(path, skip_damaged=True).counts.values()) == 7
