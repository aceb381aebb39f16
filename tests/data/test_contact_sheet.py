"""The contact sheet shows the images of a dataset with the names of their classes."""

import numpy as np
import pytest
from PIL import Image

from mdssl.data import contact_sheet as sheets
from mdssl.data.contact_sheet import contact_sheet, font, legible
from mdssl.data.prepare import prepare


@pytest.fixture
def flat(tmp_path, write_npz):
    """A dataset of 12 train images in 3 classes, where each class has one color."""
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
        # Four images of 32x32 pixels, enlarged by 2.
        assert len(rows) == 4 * 64 * 64
        tops.append(rows.min())
    assert tops == sorted(tops)


def test_a_class_with_fewer_images_shows_all_of_them(tmp_path, flat):
    dataset, colours = flat
    contact_sheet(dataset, "train", tmp_path / "sheet.png", per_class=9, max_classes=2)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    shown = [(sheet == colour).all(axis=2).sum() / 64**2 for colour in colours]
    assert shown == [4, 4, 0]


def test_the_seed_selects_the_images(tmp_path, write_npz, random_images):
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


@pytest.mark.parametrize("name", ["café", "Straße", "ñandú", "кот", "αβγ", "עברית"])
def test_class_names_in_many_scripts_are_legible(name):
    """No character is drawn as the box for a missing glyph."""
    chosen = font(15, [name])
    box = bytes(chosen.getmask("\uffff"))
    assert legible(name, chosen) == name
    assert all(bytes(chosen.getmask(sign)) != box for sign in name)


def test_characters_without_a_glyph_are_written_as_escapes(monkeypatch):
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [])
    sheets._font_file.cache_clear()
    assert legible("日本 é", font(15, ["日本 é"])) == "\\u65e5\\u672c é"
    assert legible("日本", font(15)) == "\\u65e5\\u672c"


def test_images_without_labels_are_shown_in_rows(tmp_path):
    images = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "bare.npz", images=images)
    dataset = prepare("bare", data=tmp_path / "data", source=tmp_path / "bare.npz", image_size=8, progress=False)
    contact_sheet(dataset, "train", tmp_path / "sheet.png", per_class=10)
    shown = set(np.asarray(Image.open(tmp_path / "sheet.png"))[..., 0].ravel().tolist())
    assert set(range(20)) <= shown
    with pytest.raises(ValueError, match="without labels 'test'; allowed: train"):
        contact_sheet(dataset, "test", tmp_path / "sheet.png")


def test_a_file_that_mdssl_did_not_write_is_not_replaced(tmp_path, flat):
    Image.new("RGB", (3, 3)).save(tmp_path / "mine.png")
    with pytest.raises(ValueError, match="mdssl did not write it"):
        contact_sheet(flat[0], "train", tmp_path / "mine.png")
    for _ in range(2):
        contact_sheet(flat[0], "train", tmp_path / "ours.png")
