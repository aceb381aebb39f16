"""The contact sheet shows the images that are there, with their names."""

import numpy as np
import pytest
from PIL import Image

from mdssl.data.contact_sheet import contact_sheet
from mdssl.data.prepare import prepare


@pytest.fixture
def flat(tmp_path, write_npz):
    """A dataset whose classes are single colours: 12 train images of 3 classes."""
    colours = np.array([[200, 10, 10], [10, 200, 10], [10, 10, 200]], dtype=np.uint8)
    images = np.broadcast_to(colours[np.arange(12) % 3][:, None, None, :], (12, 32, 32, 3))
    return prepare("flat", data=tmp_path / "data", source=write_npz(train_images=images), progress=False), colours


def test_rows_are_classes_in_order(tmp_path, flat):
    dataset, colours = flat
    contact_sheet(dataset, "train", tmp_path / "new" / "sheet.png", per_class=4)
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png"))
    tops = []
    for colour in colours:
        rows, _ = np.nonzero((sheet == colour).all(axis=2))
        # Four images at twice 32x32.
        assert len(rows) == 4 * 64 * 64
        tops.append(rows.min())
    assert tops == sorted(tops)


def test_a_class_with_fewer_images_shows_what_it_has(tmp_path, flat):
    dataset, colours = flat
    contact_sheet(dataset, "train", tmp_path / "sheet.png", per_class=9, max_classes=2)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    shown = [(sheet == colour).all(axis=2).sum() / 64**2 for colour in colours]
    assert shown == [4, 4, 0]


def test_the_seed_chooses(tmp_path, write_npz, random_images):
    source = write_npz(train_images=random_images(60), train_labels=np.arange(60) % 3)
    dataset = prepare("toy", data=tmp_path / "data", source=source, progress=False)
    for file, seed in (("a", 0), ("b", 0), ("c", 1)):
        contact_sheet(dataset, "train", tmp_path / file, per_class=3, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_bad_settings_are_refused(tmp_path, flat):
    with pytest.raises(ValueError, match="images per class is 0"):
        contact_sheet(flat[0], "train", tmp_path / "sheet.png", per_class=0)
    with pytest.raises(ValueError, match="unknown split"):
        contact_sheet(flat[0], "extra", tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="cannot be written"):
        contact_sheet(flat[0], "train", "/dev/null/sheet.png")
