import warnings

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tvf

from mdssl.errors import InputError
from mdssl.evaluate.encoder import open_encoder
from mdssl.evaluate.features import extract_features


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (21, 8, 8, 3), dtype=np.uint8)


def by_torchvision(images: np.ndarray) -> torch.Tensor:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return torch.stack([tvf.normalize(tvf.to_tensor(image), mean, std) for image in images])


def test_features_match_the_frozen_layers_on_unaugmented_images(tiny_model, images):
    found = extract_features(tiny_model, images, layers=("encoder", "projection"), batch_size=8)
    tiny_model.eval()
    with torch.no_grad():
        encoded = tiny_model.encoder(by_torchvision(images))
        projected = tiny_model.projection(encoded)
    torch.testing.assert_close(found["encoder"], encoded)
    torch.testing.assert_close(found["projection"], projected)
    assert not torch.allclose(found["projection"].norm(dim=1), torch.ones(len(images)))


def test_an_image_has_the_same_features_in_any_batch(tiny_model, images):
    whole = extract_features(tiny_model, images, batch_size=64)["encoder"]
    torch.testing.assert_close(extract_features(tiny_model, images, batch_size=4)["encoder"], whole)


def test_all_layers_are_computed_in_one_pass(tiny_model, images):
    seen = []
    tiny_model.encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    extract_features(tiny_model, images, layers=("projection", "encoder"), batch_size=10)
    assert seen == [10, 10, 1]


def test_only_the_requested_layers_are_returned(tiny_model, images):
    assert extract_features(tiny_model, images, layers=("projection",)).keys() == {"projection"}


def test_the_model_and_its_modes_are_unchanged(tiny_model, images):
    tiny_model.train()
    tiny_model.encoder[1].eval()
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    extract_features(tiny_model, images)
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())
    assert tiny_model.encoder.training
    assert tiny_model.encoder[3].training
    assert not tiny_model.encoder[1].training


def test_the_training_mode_is_restored_after_an_error(tiny_model, images):
    tiny_model.train()
    tiny_model.projection = torch.nn.Linear(7, 7)
    with pytest.raises(RuntimeError):
        extract_features(tiny_model, images, layers=("projection",))
    assert tiny_model.encoder.training


def test_autocast_around_the_call_does_not_lower_the_precision(tiny_model, images):
    plain = extract_features(tiny_model, images)["encoder"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = extract_features(tiny_model, images)["encoder"]
    assert inside.dtype == torch.float32
    assert torch.equal(inside, plain)


def test_a_read_only_memory_map_is_read_without_a_warning(tiny_model, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    # By default torch warns of a read-only array once per process, possibly in an earlier test.
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = extract_features(tiny_model, mapped)["encoder"]
    finally:
        torch.set_warn_always(False)
    assert torch.equal(found, extract_features(tiny_model, images)["encoder"])
    assert np.array_equal(np.load(tmp_path / "images.npy"), images)


def test_features_can_be_used_in_autograd(tiny_model, images):
    features = extract_features(tiny_model, images)["encoder"]
    weight = torch.zeros(3, 32, requires_grad=True)
    (features @ weight.T).sum().backward()
    torch.testing.assert_close(weight.grad[0], features.sum(dim=0))


def test_features_that_are_not_finite_are_refused(tiny_model, images):
    with torch.no_grad():
        tiny_model.projection[2].bias[0] = torch.nan
    extract_features(tiny_model, images, layers=("encoder",))
    with pytest.raises(ValueError, match=r"projection features of 21 of 21 images are not finite"):
        extract_features(tiny_model, images, layers=("encoder", "projection"))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((4, 8, 8, 3), np.float32),
        np.zeros((4, 3, 8, 8), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ],
)
def test_arrays_that_are_not_uint8_rgb_images_are_refused(tiny_model, bad):
    with pytest.raises(ValueError, match=r"\(N, S, S, 3\) of uint8"):
        extract_features(tiny_model, bad)


def test_an_unknown_layer_is_refused_with_the_nearest_name(tiny_model, images):
    with pytest.raises(ValueError, match="Did you mean 'projection'"):
        extract_features(tiny_model, images, layers=("projecton",))


def seen_by(model) -> list[torch.Tensor]:
    """A list that collects the inputs of later encoder passes."""
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    return seen


def test_an_input_size_equal_to_the_image_size_changes_nothing(tiny_model, images):
    plain = extract_features(tiny_model, images)["encoder"]
    assert torch.equal(extract_features(tiny_model, images, input_size=8)["encoder"], plain)


@pytest.mark.parametrize("size", [1, 5, 7, 12, 32])
def test_input_size_matches_bilinear_resizing_before_normalization(tiny_model, images, size):
    seen = seen_by(tiny_model)
    extract_features(tiny_model, images, input_size=size)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", antialias=size < 8)
    expected = tvf.normalize(resized, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(seen[0], expected)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_batches_are_smaller_for_larger_inputs(tiny_model, images):
    seen = seen_by(tiny_model)
    extract_features(tiny_model, images, input_size=512)
    assert [len(batch) for batch in seen] == [8, 8, 5]


def test_an_input_size_below_one_is_refused(tiny_model, images):
    with pytest.raises(ValueError, match="input_size is 0; it must be at least 1. It is"):
        extract_features(tiny_model, images, input_size=0)


def test_what_is_not_a_trial_id_names_no_file(tmp_path):
    with pytest.raises(InputError, match=r"'\.\./0123456789ab' is not a trial id"):
        open_encoder(str(tmp_path), "../0123456789ab")
    for named in ({}, {"trial_id": "0123456789ab", "weights": "resnet18.pth"}):
        with pytest.raises(InputError, match="give either TRIAL_ID, or --weights FILE"):
            open_encoder(str(tmp_path), **named)
