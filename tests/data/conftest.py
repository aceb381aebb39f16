"""Fixtures that write small data sources to disk."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mdssl.data.prepare import prepare


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def miniature(monkeypatch):
    """Accept files in a published format with fewer images than published, which are refused otherwise."""
    monkeypatch.setattr("mdssl.data.sources.open.check_complete", lambda *_: None)


@pytest.fixture
def random_images(rng):
    """(count, size) -> uint8 (count, size, size, 3)."""
    return lambda count, size=32: rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture
def write_npz(tmp_path, random_images):
    """Write an npz of 12 train and 6 test images in 3 classes; given arrays replace these, None omits an array."""

    def write(name="toy.npz", **replaced):
        arrays = {
            "train_images": random_images(12),
            "train_labels": np.arange(12) % 3,
            "test_images": random_images(6),
            "test_labels": np.arange(6) % 3,
            "classes": np.array(["cat", "dog", "owl"]),
        }
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **{key: array for key, array in (arrays | replaced).items() if array is not None})
        return path

    return write


@pytest.fixture
def write_folder(tmp_path):
    """Write PNGs as ``root/<key>/<number>.png`` for each ``key: images``, e.g. ``{"train/cat": …}``."""

    def write(images_by_folder, root="photos"):
        for key, images in images_by_folder.items():
            folder = tmp_path / root / key
            folder.mkdir(parents=True)
            for number, image in enumerate(images):
                Image.fromarray(image).save(folder / f"{number:03d}.png")
        return tmp_path / root

    return write


@pytest.fixture
def write_parquet(tmp_path):
    """Write one shard in the Hugging Face layout; ``encoded`` is a list of bytes."""

    def write(file, encoded, labels, *, image="image", label="label", names=("cat", "dog", "owl"), extra=None):
        path = tmp_path / "hub" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {image: [{"bytes": content, "path": None} for content in encoded], label: labels, **(extra or {})}
        table = pa.table(columns)
        if names is not None:
            features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": list(names)}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, path, row_group_size=4)
        return tmp_path / "hub"

    return write


@pytest.fixture
def encode():
    """(image, format) -> the bytes of a file."""

    def encode_image(image, file_format="PNG", **options):
        buffer = io.BytesIO()
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        picture.save(buffer, file_format, **options)
        return buffer.getvalue()

    return encode_image


@pytest.fixture
def photos(tmp_path):
    """Write a different image to each of the given paths below ``root``; return ``root``."""
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
