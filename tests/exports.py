"""Helpers for tests of exports: trials, exports, and features from the code of a model card."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from mdssl.config.trial import TrialConfig
from mdssl.evaluate.features import extract_features
from mdssl.export.folder import export
from mdssl.pretrain.loop import train
from mdssl.pretrain.trial_files import load_model
from mdssl.storage.location import Location


def random_trial(storage, **settings) -> str:
    """Make an untrained trial whose batch-norm layers are not the identity, and return its id."""
    config = TrialConfig(method="random", precision="fp32", **{"arch": "resnet18", **settings})
    train(config, data="", trial_dir=Location.of(storage) / "trials" / config.trial_id, device="cpu")
    return config.trial_id


def exported(storage, trial_id, output, *formats, size=32, **settings) -> Path:
    export(storage, trial_id, output, formats=formats, data="", size=size, resize_filter="bicubic", **settings)
    return Path(output)


def blocks_of(card_text: str) -> dict[str, str]:
    return dict(re.findall(r"### ([\w.]+)[^\n]*\n\n```python\n(.*?)```", card_text, re.DOTALL))


def run_blocks(output: Path, monkeypatch, image: np.ndarray, *libraries: str) -> dict[str, np.ndarray]:
    """Features of ``image`` from the code blocks of the model card, by library."""
    monkeypatch.chdir(output)
    Image.fromarray(image).save("image.png")
    found = {}
    blocks = blocks_of((output / "README.md").read_text())
    for name in libraries:
        names: dict = {}
        exec(blocks[name], names)
        found[name] = np.asarray(names["features"])
    return found


def photo(size: int = 48) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size + 9), Image.Resampling.BICUBIC))


def features_of(storage, trial_id, image: np.ndarray, size: int = 32) -> np.ndarray:
    """Features of the prepared image from mdssl's own encoder, as the probe gets them."""
    _, model = load_model(Location.of(storage) / "trials" / trial_id)
    small = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
    return extract_features(model, small[None])["encoder"].numpy()
