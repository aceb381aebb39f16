"""Each batched operation against torchvision's, image by image, with the same parameters."""

import shutil

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from torchvision.transforms import ColorJitter, GaussianBlur, InterpolationMode, RandomResizedCrop

from mdssl.config.trial import Recipe
from mdssl.pretrain import augment as augment_module
from mdssl.pretrain.augment import (
    Views,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    augment,
    draw,
    draw_jitter_order,
    gaussian_blur,
    normalize,
    resized,
    resized_crop_flip,
    statistics_of,
)

RECIPE = Recipe()
SIZES = [32, 64, 96, 224]
"""Image sizes of CIFAR-10, Tiny ImageNet, STL-10 and ImageNet."""


def simclr_kernel(size: int) -> int:
    """Kernel size of `random_blur` and `gaussian_blur` in SimCLR's data_util.py (github.com/google-research/simclr)."""
    radius = int((size // 10) / 2)
    return 2 * radius + 1


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def parameters():
    return Views.of(torch.from_numpy(draw(48, seed=0, step=3, domain=1)[0]), 32, RECIPE)


def some(size: int, count: int = 12) -> tuple[torch.Tensor, Views]:
    """Images of the given size, and parameters of their views."""
    images = np.random.default_rng(size).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return torch.from_numpy(images), Views.of(torch.from_numpy(draw(count, seed=0, step=3, domain=1)[0]), size, RECIPE)


def floats(images):
    return images.permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("size", SIZES)
def test_crop_and_flip_match_torchvision(size):
    images, parameters = some(size)
    got = resized_crop_flip(images, parameters)
    for i, image in enumerate(floats(images)):
        box = [int(getattr(parameters, name)[i]) for name in ("top", "left", "height", "width")]
        expected = TF.resized_crop(
            image, *box, size=[size, size], interpolation=InterpolationMode.BILINEAR, antialias=True
        )
        if parameters.flip[i]:
            expected = TF.horizontal_flip(expected)
        # Positions of pixels are float32: their rounding error grows with the size of images.
        torch.testing.assert_close(got[i], expected, rtol=0, atol=size / 32 * 2e-6)


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (adjust_brightness, TF.adjust_brightness, torch.linspace(0.6, 1.4, 48)),
        (adjust_contrast, TF.adjust_contrast, torch.linspace(0.6, 1.4, 48)),
        (adjust_saturation, TF.adjust_saturation, torch.linspace(0.0, 1.4, 48)),
        (adjust_hue, TF.adjust_hue, torch.linspace(-0.5, 0.5, 48)),
    ],
    ids=["brightness", "contrast", "saturation", "hue"],
)
def test_color_operations_match_torchvision(images, ours, theirs, factors):
    x = floats(images)
    x[0], x[1] = 0.0, x[1].mean(0)  # a black and a gray image, which have no hue
    got = ours(x, factors)
    expected = torch.stack([theirs(image, float(factor)) for image, factor in zip(x, factors, strict=True)])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "kernel"), [(32, 3), (64, 7), (96, 9), (224, 23)])
def test_blur_matches_torchvision(size, kernel):
    x = torch.rand(12, 3, size, size)
    sigmas = torch.linspace(0.1, 2.0, 12)
    assert kernel == simclr_kernel(size)
    expected = torch.stack(
        [TF.gaussian_blur(image, [kernel, kernel], [float(s)] * 2) for image, s in zip(x, sigmas, strict=True)]
    )
    torch.testing.assert_close(gaussian_blur(x, sigmas), expected, rtol=0, atol=1e-5)


def test_neutral_parameters_do_not_change_images(images):
    nothing = torch.zeros(48)
    x = floats(images)
    for operation, neutral in (
        (adjust_brightness, 1),
        (adjust_contrast, 1),
        (adjust_saturation, 1),
        (adjust_hue, 0),
        (gaussian_blur, 0),
    ):
        torch.testing.assert_close(operation(x, nothing + neutral), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_view_applies_all_operations_in_the_order_of_simclr(size):
    images, parameters = some(size)
    order = np.array([2, 0, 3, 1])
    got = augment(images, parameters, order)
    theirs = {0: TF.adjust_brightness, 1: TF.adjust_contrast, 2: TF.adjust_saturation, 3: TF.adjust_hue}
    names = {0: "brightness", 1: "contrast", 2: "saturation", 3: "hue"}
    for i, x in enumerate(resized_crop_flip(images, parameters)):
        for operation in order:
            x = theirs[operation](x, float(getattr(parameters, names[operation])[i]))
        if parameters.gray[i]:
            x = TF.rgb_to_grayscale(x, num_output_channels=3)
        if parameters.sigma[i]:
            x = TF.gaussian_blur(x, [simclr_kernel(size)] * 2, [float(parameters.sigma[i])] * 2)
        expected = TF.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        torch.testing.assert_close(got[i], expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_views_equal_uncompiled_views(images, parameters):
    order = np.array([3, 1, 0, 2])
    torch.testing.assert_close(
        augment(images, parameters, order, compiled=True), augment(images, parameters, order), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("size", SIZES)
def test_crops_have_the_distribution_of_torchvision(size):
    torch.manual_seed(0)
    count = 4000
    parameters = Views.of(torch.from_numpy(draw(count, seed=1, step=0, domain=0)[0]), size, RECIPE)
    transform, blank = RandomResizedCrop(size), torch.zeros(3, size, size)
    theirs = torch.tensor(
        [transform.get_params(blank, transform.scale, transform.ratio) for _ in range(count)]
    ).double()
    for column, name in enumerate(("top", "left", "height", "width")):
        ours = getattr(parameters, name).double()
        spread = theirs[:, column].std() * (2 / count) ** 0.5
        assert abs(ours.mean() - theirs[:, column].mean()) < 4.5 * spread, name
        assert abs(ours.std() / theirs[:, column].std() - 1) < 0.08, name


def test_first_crop_that_fits_is_used_or_else_the_whole_image():
    """Each row has a first crop of the given area and ratio (0: 3/4, 1: 4/3), and then squares of 2×2 pixels."""
    firsts = [(16, 0.5), (1, 0.5), (0.2, 0.5), (16, 0.0), (16, 1.0), (0.3, 0.0), (0.3, 1.0), (0.2, 0.5)]
    area, ratio = torch.full((8, 10), 4.0), torch.full((8, 10), 0.5)
    area[:, 0], ratio[:, 0] = torch.tensor(firsts).T
    area[7] = 0.2
    uniform = torch.cat([(area / 16 - 0.01) / 0.99, ratio, torch.full((8, 11), 0.5)], 1)
    crops = Views.of(uniform, 4, Recipe(crop_min_area=0.01))
    # Too small or large are the crops of 0×0, 5×3, 3×5, 1×0 and 0×1 pixels.
    assert crops.height.tolist() == crops.width.tolist() == [4, 1, 2, 2, 2, 2, 2, 4]
    assert crops.top.tolist() == crops.left.tolist() == [0, 2, 1, 1, 1, 1, 1, 0]


def test_probabilities_of_random_operations_match_simclr():
    parameters = Views.of(torch.from_numpy(draw(8000, seed=2, step=0, domain=0)[1]), 32, RECIPE)
    for share, expected in (
        (parameters.flip.mean(), 0.5),
        (parameters.gray.mean(), 0.2),
        ((parameters.sigma > 0).float().mean(), 0.5),
        ((parameters.hue != 0).float().mean(), 0.8),
    ):
        assert abs(share - expected) < 0.03
    # torchvision flips where rand(1) < p, so 0.5 does not flip.
    for at, name in ((0.5, "flip"), (0.8, "hue"), (0.2, "gray"), (0.5, "sigma")):
        assert getattr(Views.of(torch.full((1, 31), at), 32, RECIPE), name) == 0


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_ranges_of_color_jitter_and_blur_match_torchvision(strength):
    """Compares SimCLR's color distortion (Chen et al. 2020, appendix A) and blur with the ranges of torchvision."""
    jitter = ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    ranges = {name: getattr(jitter, name) for name in ("brightness", "contrast", "saturation", "hue")}
    uniform = torch.from_numpy(draw(8000, seed=2, step=0, domain=0)[1])
    parameters = Views.of(uniform, 32, Recipe(jitter_strength=strength))
    for name, (low, high) in ranges.items():
        drawn = getattr(parameters, name)
        assert drawn.min() == pytest.approx(low, abs=0.005 * (high - low)), name
        assert drawn.max() == pytest.approx(high, abs=0.005 * (high - low)), name
        assert drawn[drawn != drawn.median()].mean() == pytest.approx((low + high) / 2, abs=0.02), name
    low, high = GaussianBlur(3, (0.1, 2.0)).sigma
    blurred = parameters.sigma[parameters.sigma > 0]
    assert blurred.min() == pytest.approx(low, abs=0.01) and blurred.max() == pytest.approx(high, abs=0.01)
    columns = torch.stack([getattr(parameters, name) for name in ranges])
    assert (torch.corrcoef(columns) - torch.eye(4)).abs().max() < 0.05, "factors are drawn independently of each other"


def test_jittered_views_have_all_four_operations():
    parameters = Views.of(torch.from_numpy(draw(1000, seed=3, step=0, domain=0)[0]), 32, RECIPE)
    untouched = [parameters.brightness == 1, parameters.contrast == 1, parameters.saturation == 1, parameters.hue == 0]
    assert all(torch.equal(one, untouched[0]) for one in untouched)


def test_draws_depend_only_on_seed_step_and_domain():
    same = draw(5, seed=1, step=2, domain=3)
    np.testing.assert_array_equal(same, draw(5, seed=1, step=2, domain=3))
    for other in ({"seed": 2}, {"step": 3}, {"domain": 4}):
        assert not np.array_equal(same, draw(5, **{"seed": 1, "step": 2, "domain": 3} | other))
    np.testing.assert_array_equal(draw_jitter_order(seed=1, step=2), draw_jitter_order(seed=1, step=2))
    # Every version draws these numbers. Otherwise a trial would not resume to the same encoder.
    assert draw(2, seed=3, step=5, domain=7)[1, 1, [0, 30]].tolist() == [0.9295350909233093, 0.299432635307312]
    assert draw_jitter_order(seed=3, step=5).tolist() == [[1, 0, 2, 3], [1, 2, 3, 0]]


def test_two_views_of_an_image_differ():
    first, second = draw(5, seed=0, step=0, domain=0)
    assert not np.array_equal(first, second)


def test_settings_turn_operations_off():
    off = Recipe(jitter_strength=0, blur_probability=0, crop_min_area=1)
    parameters = Views.of(torch.from_numpy(draw(200, seed=0, step=0, domain=0)[0]), 32, off)
    assert (parameters.brightness == 1).all()
    assert (parameters.hue == 0).all()
    assert (parameters.sigma == 0).all()


def test_augment_does_not_modify_its_input_images(images, parameters):
    before = images.clone()
    augment(images, parameters, np.arange(4))
    assert torch.equal(images, before)


@pytest.mark.parametrize(("device", "parts"), [("cpu", [128, 128, 44]), ("meta", [300])])
def test_views_are_augmented_in_parts_that_fit_in_the_cache_of_a_cpu(monkeypatch, device, parts):
    images, parameters = some(8, 300)
    sizes, crop = [], resized_crop_flip
    monkeypatch.setattr(augment_module, "resized_crop_flip", lambda *part: sizes.append(len(part[0])) or crop(*part))
    moved = Views(**{name: value.to(device) for name, value in vars(parameters).items()})
    assert augment(images.to(device), moved, np.arange(4)).shape == (300, 3, 8, 8)
    assert sizes == parts


@pytest.mark.parametrize("size", [24, 40])
def test_resized_images_match_torchvision(size):
    x = torch.rand(2, 3, 32, 32)
    got = resized(x, size)
    torch.testing.assert_close(got, TF.resize(x, [size, size], antialias=size < 32))
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert resized(x, None) is x and resized(x, 32) is x


def test_normalize_matches_torchvision():
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(normalize(x), TF.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def test_statistics_of_an_encoder_default_to_those_of_imagenet():
    assert statistics_of("0.1 0.2 0.3 0.4 0.5 0.6") == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert statistics_of("") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
