"""Parts of a file of embeddings in a bucket with transient errors, labels, and the source that a name means."""

import re
import uuid

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from mdssl.export import embeddings_file
from mdssl.export.images import open_images
from mdssl.storage import retry as retries
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying


class RefusesOnce(pyarrow.fs.FSSpecHandler):
    """An object store that refuses the first request of each kind for each path."""

    def __init__(self):
        super().__init__(fsspec.filesystem("memory"))
        self.refused = set()


REQUESTS = ("get_file_info", "get_file_info_selector", "open_input_file", "open_output_stream", "move", "delete_file")
for method in REQUESTS:

    def _request(self, *arguments, _method=method):
        key = _method, re.sub("[0-9a-f]{8}", "", str(arguments[0]))
        if key not in self.refused:
            self.refused.add(key)
            raise OSError("AWS Error SLOW_DOWN")
        return getattr(pyarrow.fs.FSSpecHandler, _method)(self, *arguments)

    setattr(RefusesOnce, method, _request)


def test_transient_errors_of_a_bucket_are_retried(tiny_data, monkeypatch):
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(embeddings_file, "MOST", 16)
    store = RefusesOnce()
    output = Location(pyarrow.fs.PyFileSystem(store), f"/{uuid.uuid4().hex}/out.parquet", "s3://bucket/out.parquet")
    images = open_images("tiny-a", data=tiny_data, split="test")
    made = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)

    def parts():
        return embeddings_file.Parts(output, {"of": "test"}, images, size=2048, skip_damaged=False)

    with retrying(60):
        first = parts()
        assert not first.is_complete() and first.missing == [0, 1]
        first.write(0, first.rows[0], made[:16], {})
        second = parts()
        assert second.missing == [1]
        second.write(1, second.rows[1], made[16:], {})
        assert second.join() == (32, {})
        assert parts().is_complete()
    found = pq.read_table(pa.BufferReader(output.read_bytes()))["embedding"].combine_chunks()
    assert np.array_equal(found.flatten().to_numpy().reshape(-1, 4), made)
    assert {method for method, _ in store.refused} == set(REQUESTS)


@pytest.mark.parametrize(
    ("labels", "read"),
    [
        (pa.array([3, 1, None]), ["3", "1", None]),
        (pa.array(["dog", "cat", None]), ["dog", "cat", None]),
        (pa.array(["dog", "cat", ""]).dictionary_encode(), ["dog", "cat", None]),
        (pa.array([1.0, 0.25, None]), ["1", "0.25", None]),
        (pa.array([True, False, None]), ["True", "False", None]),
        (pa.array([[1, 2], [3], None]), ["[1, 2]", "[3]", None]),
    ],
    ids=["integers", "text", "dictionary", "floats", "booleans", "lists"],
)
def test_labels_of_any_type_are_read_from_parquet(labels, read, tmp_path):
    images = [{"bytes": b"", "path": None}] * 3
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "train.parquet")
    found = open_images(str(tmp_path), data="nowhere")
    assert found.columns(np.arange(3))["label"].to_pylist() == read
    # Earlier versions left out labels that are not integers: their embeddings are of another state.
    assert ("labels that are not integers" in found.state(np.arange(3))) == (not pa.types.is_integer(labels.type))


def test_a_name_of_both_a_dataset_and_a_folder_says_which_was_taken(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-a").mkdir()
    assert open_images("tiny-a", data=tiny_data).dataset is not None
    assert capsys.readouterr().err == f"tiny-a: the dataset prepared in {tiny_data}; ./tiny-a names what is here\n"
    monkeypatch.chdir(tiny_data)
    open_images("tiny-a", data=tiny_data)
    assert not capsys.readouterr().err
