"""Folders with files of the user, and commands that write beside them, for tests of ownership."""

import hashlib
import os
import random
from pathlib import Path

import numpy as np
from PIL import Image

from mdssl.data.prepare import prepare
from mdssl.export.folder import export

NAMES = ("a.png", ".git/HEAD", ".hidden", "notes.txt", "train/images.npy", "train/mine.npy", "meta.json", "README.md")


def snapshot(root: Path) -> dict[str, str]:
    """Digests of all files and link targets below ``root``, by relative path."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*files, *(name for name in folders if os.path.islink(os.path.join(folder, name)))):
            path = Path(folder, name)
            content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(root))] = hashlib.sha256(content).hexdigest()
    return found


def random_tree(root: Path, rng: random.Random) -> None:
    """Write random files of the user: hidden files, links, and files with names that mdssl uses."""
    root.mkdir(parents=True, exist_ok=True)
    for name in rng.sample(NAMES, rng.randint(0, 4)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if rng.random() < 0.2:
            path.symlink_to(root.parent / "elsewhere")
        else:
            path.write_bytes(rng.randbytes(20))


def write_images(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        for number in range(3):
            path = root / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return root


def a_dataset(source, target, storage):
    prepare(target.name, data=target.parent, source=source, overwrite=True, image_size=8, workers=1, progress=False)


def an_export(source, target, storage):
    export(*storage, target, formats=("safetensors",), data="", size=8, resize_filter="bicubic", overwrite=True)
