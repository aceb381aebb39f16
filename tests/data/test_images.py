"""Conversion of every image mode to RGB, compared with plain arithmetic on the pixel values."""

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, Resize

from mdssl.data.decode import FILTERS, convert
from mdssl.data.prepare import prepare


def to_rgb(encoded, size=32, resize_filter="bicubic"):
    return convert(encoded, size, resize_filter, "the image")


def test_rgb_of_the_right_size_is_unchanged(random_images, encode):
    image = random_images(1)[0]
    assert np.array_equal(to_rgb(encode(image)), image)
    assert np.array_equal(to_rgb(image), image)


def test_gray_is_repeated_in_three_channels(random_images, encode):
    grey = random_images(1)[0][..., 0]
    for raw in (encode(grey), grey, grey[..., None]):
        assert np.array_equal(to_rgb(raw), np.stack([grey] * 3, axis=-1))


def test_one_bit_images_become_black_and_white(rng, encode):
    bits = rng.integers(0, 2, (32, 32), dtype=bool)
    assert np.array_equal(to_rgb(encode(bits))[..., 1], bits * 255)


@pytest.mark.parametrize("grey", [False, True])
def test_alpha_is_composited_on_white(rng, encode, grey):
    values = rng.integers(0, 256, (32, 32, 2 if grey else 4), dtype=np.uint8)
    colour, alpha = values[..., :-1].astype(float), values[..., -1:] / 255
    expected = colour * alpha + 255 * (1 - alpha)
    assert np.abs(to_rgb(encode(values)) - expected).max() <= 1


def test_palette_is_applied_and_its_transparent_entry_becomes_white(rng, encode):
    palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    indices = rng.integers(0, 256, (32, 32), dtype=np.uint8)
    image = Image.frombytes("P", (32, 32), indices.tobytes())
    image.putpalette(palette.tobytes())
    assert np.array_equal(to_rgb(encode(image)), palette[indices])
    expected = np.where(indices[..., None] == 7, 255, palette[indices])
    assert np.array_equal(to_rgb(encode(image, transparency=7)), expected)


def test_color_key_of_an_rgb_png_becomes_white(random_images, encode):
    image = random_images(1)[0]
    image[4:9, 4:9] = (10, 20, 30)
    expected = image.copy()
    expected[4:9, 4:9] = 255
    assert np.array_equal(to_rgb(encode(image, transparency=(10, 20, 30))), expected)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_and_not_clipped(rng, encode, file_format):
    values = rng.integers(0, 65536, (32, 32), dtype=np.uint16)
    expected = np.round(values / 65535 * 255)
    assert np.array_equal(to_rgb(encode(values, file_format))[..., 2], expected)


@pytest.mark.parametrize(("bits", "largest"), [(8, 255), (10, 1023), (12, 4095), (14, 16383)])
def test_gray_camera_images_in_16_bit_files_are_scaled_by_their_bit_depth(rng, encode, bits, largest):
    values = rng.integers(0, largest + 1, (32, 32), dtype=np.uint16)
    values[0, 0] = largest
    expected = np.round(values / largest * 255)
    assert np.array_equal(to_rgb(encode(values))[..., 0], expected)


@pytest.mark.parametrize("first", [None, "damaged", "RGB"])
def test_a_dark_image_of_a_12_bit_camera_stays_dark(first, rng, encode, tmp_path):
    """The bit depth is that of the whole dataset, whatever its first image is, and the remarks record it."""
    (tmp_path / "scans").mkdir()
    for number in range(8):
        values = rng.integers(0, 200 if number == 1 else 4096, (32, 32), dtype=np.uint16)
        (tmp_path / f"scans/{number}.png").write_bytes(encode(values))
    if first is not None:
        content = b"" if first == "damaged" else encode(Image.new(first, (32, 32), "red"))
        (tmp_path / "scans/+.png").write_bytes(content)
    scans = prepare("scans", data=tmp_path / "data", source=tmp_path / "scans", skip_damaged=True, progress=False)
    brightest = sorted(image[..., 1].max() for image in scans.pretraining_images()[first == "RGB" :])
    assert brightest[0] <= 13 and brightest[1] > 250
    assert "grey images of more than 8 bits, scaled from 0 to 4,095" in scans.meta["remarks"]


def test_cmyk_is_ink_subtracted_from_white(rng, encode):
    inks = rng.integers(0, 256, (32, 32, 4), dtype=np.uint8)
    left = 255 - inks.astype(float)
    expected = left[..., :3] * left[..., 3:] / 255
    encoded = encode(Image.frombytes("CMYK", (32, 32), inks.tobytes()), "TIFF")
    assert np.abs(to_rgb(encoded) - expected).max() <= 1


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (2, lambda image: image[:, ::-1]),
        (3, lambda image: image[::-1, ::-1]),
        (4, lambda image: image[::-1]),
        (5, lambda image: image.swapaxes(0, 1)),
        (6, lambda image: np.rot90(image, -1)),
        (7, lambda image: image[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda image: np.rot90(image)),
    ],
)
def test_exif_orientation_is_applied(random_images, encode, orientation, upright):
    image = random_images(1)[0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(to_rgb(encode(image, exif=exif)), upright(image))


def test_exif_orientation_is_applied_before_resizing(rng, encode):
    image = rng.integers(0, 256, (50, 20, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    expected = Image.fromarray(np.rot90(image, -1)).resize((32, 32), FILTERS["bicubic"])
    assert np.array_equal(to_rgb(encode(image, exif=exif)), np.asarray(expected))


def test_a_rotated_image_keeps_its_color_key(rng, encode):
    image = rng.integers(0, 200, (32, 32, 3), dtype=np.uint8)
    image[4:9, 4:20] = (210, 220, 230)
    exif = Image.Exif()
    exif[0x0112] = 3
    expected = image.copy()
    expected[4:9, 4:20] = 255
    assert np.array_equal(to_rgb(encode(image, exif=exif, transparency=(210, 220, 230))), expected[::-1, ::-1])


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 3), (32, 32, 4), (50, 20, 3)])
def test_the_input_array_is_neither_modified_nor_shared_with_the_result(rng, shape):
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    before = image.copy()
    converted = to_rgb(image)
    assert np.array_equal(image, before)
    assert not np.shares_memory(converted, image)


@pytest.mark.parametrize(("file_format", "size"), [("jpeg", (90, 70)), ("png", (64, 64)), ("jpeg", (32, 32))])
def test_rgb_pixels_match_the_image_folder_of_torchvision(rng, tmp_path, file_format, size):
    path = tmp_path / f"class/image.{file_format}"
    path.parent.mkdir()
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    images = ImageFolder(tmp_path, Resize((32, 32), InterpolationMode.BICUBIC, antialias=True))
    assert np.array_equal(to_rgb(path), np.asarray(images[0][0]))


def test_box_filter_halves_by_averaging_blocks(random_images, encode):
    image = random_images(1, size=64)[0]
    # Pillow rounds twice, after the rows and after the columns.
    expected = image.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(to_rgb(encode(image), resize_filter="box") - expected).max() <= 1


@pytest.mark.parametrize("resize_filter", FILTERS)
def test_resizing_matches_pillow_and_ignores_the_aspect_ratio(rng, encode, resize_filter):
    image = rng.integers(0, 256, (50, 20, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((24, 24), FILTERS[resize_filter]))
    assert np.array_equal(to_rgb(encode(image), 24, resize_filter), expected)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_an_undecodable_image_is_named(random_images, encode, file_format):
    encoded = encode(random_images(1)[0], file_format)
    for broken in (encoded[: len(encoded) // 2], b"no image", b""):
        with pytest.raises(ValueError, match="image the image cannot be decoded"):
            to_rgb(broken)


def test_floats_without_a_range_are_refused(encode):
    with pytest.raises(ValueError, match="floats without a known range"):
        to_rgb(encode(np.ones((32, 32), dtype=np.float32), "TIFF"))


def test_images_above_the_limits_of_pillow_are_read(tmp_path):
    """A PNG of 200 million pixels, where Pillow refuses more than 179 million; and a PNG with a long text chunk."""
    Image.new("1", (20_000, 10_000), 1).save(tmp_path / "large.png")
    assert to_rgb(tmp_path / "large.png", size=8).min() == 255
    text = PngInfo()
    text.add_text("profile", "x" * 2**21, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "text.png", pnginfo=text)
    assert to_rgb(tmp_path / "text.png").max() == 0


def test_images_of_too_many_pixels_and_missing_files_are_refused(tmp_path, monkeypatch):
    Image.new("RGB", (60, 60)).save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(ValueError, match="the image has more than 1,073,741,824 pixels"):
        to_rgb(tmp_path / "image.png")
    with pytest.raises(ValueError, match="the image is missing: there is no file .*/nowhere.png"):
        to_rgb(tmp_path / "nowhere.png")
