"""Tests on real datasets, run only if MDSSL_TEST_IMAGES names a folder of NAME/SPLIT-*.parquet."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mdssl.data.prepare import prepare

FOLDER = os.environ.get("MDSSL_TEST_IMAGES")

pytestmark = pytest.mark.skipif(not FOLDER, reason="MDSSL_TEST_IMAGES does not name a folder of real images")


@pytest.mark.parametrize("name", ["svhn", "stl10", "cifar100", "eurosat"])
def test_pixels_of_real_shards_match_pillow(tmp_path, name):
    source = Path(FOLDER) / name
    if not source.is_dir():
        pytest.skip(f"{source} is not there")
    prepared = prepare(name, data=tmp_path, source=source, progress=False)
    for split in ("train", "test"):
        table = pq.read_table(sorted(source.glob(f"{split}-*.parquet")))
        opened = prepared.split(split)
        assert np.array_equal(opened.labels, table["label"].to_numpy())
        for row in range(0, len(table), 97):
            image = Image.open(io.BytesIO(table["image"][row]["bytes"].as_py()))
            assert np.array_equal(opened.images[row], np.asarray(image))
