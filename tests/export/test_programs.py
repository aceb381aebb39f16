"""Programs that map pixels to features: their results, the inputs they refuse, and the content of their files."""

from pathlib import Path

import numpy as np
import pytest
import thin_encoder
from exports import exported, features_of, photo, random_trial, run_blocks

from mdssl.evaluate.features import extract_features
from mdssl.export import programs
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.location import Location


@pytest.fixture(scope="module")
def with_programs(tmp_path_factory) -> tuple[Path, str]:
    """A storage with an untrained encoder, exported in all formats to ``out``, and the ID of its trial."""
    pytest.importorskip("onnxruntime")
    storage = tmp_path_factory.mktemp("untrained")
    trial_id = random_trial(storage)
    exported(storage, trial_id, storage / "out", *programs.FORMATS, size=24)
    return storage, trial_id


def test_programs_accept_pixels_and_any_number_of_images(with_programs, monkeypatch):
    storage, trial_id = with_programs
    found = run_blocks(storage / "out", monkeypatch, photo(), "torch.export", "ONNX")
    expected = features_of(storage, trial_id, photo(), size=24)
    for name in ("torch.export", "ONNX"):
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)
    _, model = load_model(Location.of(storage) / "trials" / trial_id)
    images = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)
    for name in ("torch-export", "onnx"):
        data = (storage / "out" / programs.FORMATS[name]).read_bytes()
        features = programs.PROGRAMS[name].run(data, images)
        np.testing.assert_allclose(features, extract_features(model, images)["encoder"], rtol=1e-4, atol=1e-5)


def test_a_program_refuses_images_of_another_size(with_programs):
    images = np.zeros((2, 32, 32, 3), np.uint8)
    for name in ("torch-export", "onnx"):
        data = (with_programs[0] / "out" / programs.FORMATS[name]).read_bytes()
        with pytest.raises(Exception, match=r"images|dimension"):
            programs.PROGRAMS[name].run(data, images)


def test_exported_files_contain_no_local_paths(with_programs):
    home = str(Path(programs.__file__).parents[2]).encode()
    for file in (with_programs[0] / "out").iterdir():
        data = file.read_bytes()
        assert home not in data
        assert b"site-packages" not in data, file.name


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [{}, {"norm": "group"}, {"stem": "cifar"}, {"arch": "resnet50"}, {"arch": "resnet50", "stem": "cifar"}],
    ids=lambda settings: "-".join(settings.values()) or "plain",
)
def test_every_kind_of_encoder_can_be_exported_as_a_program(settings, tmp_path):
    # The export compares each program with the encoder.
    with thin_encoder.full():
        exported(tmp_path, random_trial(tmp_path, **settings), tmp_path / "out", "torch-export", "onnx")
    assert {"model.pt2", "model.onnx"} <= {file.name for file in (tmp_path / "out").iterdir()}


def test_a_program_with_wrong_features_is_not_exported(with_programs, tmp_path, monkeypatch):
    wrong = programs.Program(lambda traced: b"", lambda data, images: np.zeros((len(images), 512)))
    monkeypatch.setitem(programs.PROGRAMS, "torch-export", wrong)
    with pytest.raises(ValueError, match="features of the torch-export program differ by up to"):
        exported(*with_programs, tmp_path / "out", "torch-export")
    assert not (tmp_path / "out").exists()
