"""Copy the small files of a storage: `python tests/compatibility/collect.py results tests/compatibility/NAME`.

Encoders and checkpoints have 45 and 90 MB each. Only their headers are kept, in tensors.json.
"""

import json
import shutil
import sys
from pathlib import Path

import safetensors


def collect(storage: Path, kept: Path) -> None:
    headers = {}
    for file in sorted(storage.rglob("*.safetensors")):
        name = str(file.relative_to(storage))
        if "representations" in name:
            continue
        with safetensors.safe_open(file, "np") as opened:
            tensors = {key: opened.get_slice(key) for key in sorted(opened.keys())}
            shapes = {key: [part.get_dtype(), part.get_shape()] for key, part in tensors.items()}
            headers[name] = {"metadata": opened.metadata(), "tensors": shapes}
    for pattern in ("leaderboard/*.parquet", "trials/*/*.json", "trials/*/*.parquet"):
        for file in storage.glob(pattern):
            target = kept / file.relative_to(storage)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    # Trials of one architecture have the same tensors, which are written once.
    shapes = {}
    for header in headers.values():
        said = json.dumps(header["tensors"])
        header["tensors"] = shapes.setdefault(said, f"kind {len(shapes)}")
    kinds = {name: json.loads(said) for said, name in shapes.items()}
    (kept / "tensors.json").write_text(json.dumps({"files": headers, "kinds": kinds}, indent=1))


if __name__ == "__main__":
    collect(Path(sys.argv[1]), Path(sys.argv[2]))
