"""Data in a bucket: each node copies a dataset once, and again when the dataset changes."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import s3_server

from mdssl.cli.main import main
from mdssl.data import remote as remote_module
from mdssl.data.atomic_folder import ARRAYS
from mdssl.data.dataset import open_dataset
from mdssl.data.remote import ensure_local, folder_of
from mdssl.storage.location import Location


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MDSSL_DATA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def remote(bucket, tiny_data):
    """A bucket with tiny-a, tiny-b and tiny-c."""
    s3_server.sync(tiny_data, f"{bucket}/data")
    return f"{bucket}/data"


def npz(path, seed=0, count=24):
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(256, size=(count, 8, 8, 3), dtype=np.uint8), np.arange(count) % 3
    np.savez(path, train_images=images, train_labels=labels, test_images=images[::2], test_labels=labels[::2])
    return path


def prepare(name, data, source, *more):
    command = ["data", "prepare", name, "--data", data, "--source", str(source), "--size", "8", "--workers", "1"]
    assert main([*command, *more]) == 0


def change(remote, file, change):
    place = Location.of(f"{remote}/{file}")
    place.write_bytes(change(place.read_bytes()))


def test_a_local_folder_is_used_without_a_copy(tiny_data, cache):
    assert str(ensure_local(tiny_data, ["tiny-a"])) == tiny_data
    assert str(ensure_local(f"file://{tiny_data}", ["tiny-a"])) == tiny_data
    assert not cache.exists()


def test_only_named_datasets_are_copied_and_the_copies_are_identical(remote, tiny_data, cache):
    folder = ensure_local(remote, ["tiny-b", "builtin-digits"])
    assert folder.parent == cache
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["builtin-digits", "tiny-b"]
    for split in ("train", "test"):
        theirs, ours = open_dataset(tiny_data, "tiny-b").split(split), open_dataset(folder, "tiny-b").split(split)
        assert (theirs.images == ours.images).all() and (theirs.labels == ours.labels).all()


def test_each_bucket_has_its_own_local_folder(remote):
    assert folder_of(remote) != folder_of(f"{remote}2")
    assert folder_of(remote) == folder_of(f"{remote}/")


def test_a_dataset_is_copied_once(remote, caplog):
    caplog.set_level(logging.INFO)
    for _ in range(3):
        ensure_local(remote, ["tiny-a", "tiny-a"])
    assert caplog.text.count("fetched tiny-a") == 1


def test_two_concurrent_processes_copy_each_dataset_once(remote):
    code = "import logging, sys; logging.basicConfig(level=logging.INFO); from mdssl.data.remote import ensure_local; "
    code += "print(flush=True); sys.stdin.readline(); ensure_local(sys.argv[1], ['tiny-a', 'tiny-b', 'tiny-c'])"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", code, remote], **pipes) for _ in range(2)]
    for process in both:
        process.stdout.readline()
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = "".join(process.communicate(timeout=100)[1] for process in both)
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(line.split("fetched ")[1][:6] for line in said.splitlines() if "fetched" in line) == [
        "tiny-a",
        "tiny-b",
        "tiny-c",
    ]


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("train/images.npy", lambda data: data[:-100]),
        ("train/images.npy", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        ("test/labels.npy", lambda data: data[:-8] + bytes(8)),
    ],
)
def test_a_checksum_mismatch_is_refused_and_leaves_no_copy(remote, cache, file, damage):
    change(remote, f"tiny-b/{file}", damage)
    with pytest.raises(ValueError, match=rf"prepared file {remote}/tiny-b/.* is damaged.*--data {remote}"):
        ensure_local(remote, ["tiny-b"])
    (folder,) = cache.iterdir()
    assert [path.name for path in folder.iterdir()] == [".tiny-b.lock"]


def test_a_truncated_download_is_repeated(remote, monkeypatch, caplog):
    read, cut = remote_module._chunk, []

    def chunk(source, start):
        first = not cut
        cut.append(source)
        return read(source, start)[: 100 if first else None]

    monkeypatch.setattr(remote_module, "_chunk", chunk)
    open_dataset(ensure_local(remote, ["tiny-a"]), "tiny-a").check_fingerprints()
    assert "was damaged during the transfer" in caplog.text


def test_a_truncated_local_copy_is_fetched_again(remote):
    folder = ensure_local(remote, ["tiny-a"])
    os.truncate(folder / "tiny-a/test/images.npy", 1000)
    open_dataset(ensure_local(remote, ["tiny-a"]), "tiny-a").check_fingerprints()


def test_a_dataset_replaced_in_the_bucket_is_fetched_again(bucket, tmp_path, monkeypatch):
    prepare("cells", f"{bucket}/data", npz(tmp_path / "cells.npz"))
    before = open_dataset(ensure_local(f"{bucket}/data", ["cells"]), "cells").fingerprints
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("MDSSL_DATA_CACHE", str(tmp_path / "another machine's"))
        prepare("cells", f"{bucket}/data", npz(tmp_path / "cells.npz", seed=1), "--overwrite")
        new = open_dataset(folder_of(f"{bucket}/data"), "cells").fingerprints
    assert open_dataset(ensure_local(f"{bucket}/data", ["cells"]), "cells").fingerprints == new != before


def test_a_dataset_in_a_bucket_is_prepared_once_for_all_machines(bucket, tmp_path, monkeypatch, capsys):
    source = npz(tmp_path / "cells.npz")
    prepare("cells", f"{bucket}/data", source)
    assert f"24 train / 12 test images of 3 classes in {bucket}/data/cells" in capsys.readouterr().out
    assert Location.of(f"{bucket}/data").names() == ["cells"]
    meta = Location.of(f"{bucket}/data/cells/meta.json").read_bytes()
    monkeypatch.setenv("MDSSL_DATA_CACHE", str(tmp_path / "another machine's"))
    prepare("cells", f"{bucket}/data", source)
    assert Location.of(f"{bucket}/data/cells/meta.json").read_bytes() == meta
    assert main(["data", "prepare", "cells", "--data", f"{bucket}/data", "--source", str(source), "--size", "16"]) == 2
    assert "already prepared with image size 8, not 16" in capsys.readouterr().err


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_an_interrupted_upload_is_repeated_by_the_same_command(bucket, tmp_path, monkeypatch, overwrite, capsys):
    data, source = f"{bucket}/data", npz(tmp_path / "cells.npz")
    if overwrite:
        prepare("cells", data, npz(tmp_path / "other.npz", seed=1))
    upload, sent = remote_module._upload_file, []

    def interrupted(*arguments):
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(upload(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(remote_module, "_upload_file", interrupted)
        command = ["data", "prepare", "cells", "--data", data, "--source", str(source), "--size", "8"]
        assert main([*command, *overwrite]) == 130
    with pytest.raises(ValueError, match="unknown dataset 'cells'"):
        ensure_local(data, ["cells"])
    prepare("cells", data, source, *overwrite)
    assert Location.of(f"{data}/cells").files() == ["meta.json", *sorted(ARRAYS)]
    monkeypatch.setenv("MDSSL_DATA_CACHE", str(tmp_path / "another machine's"))
    open_dataset(ensure_local(data, ["cells"]), "cells").check_fingerprints()


def test_arrays_that_mdssl_did_not_upload_are_kept(bucket, tmp_path, capsys):
    theirs = Location.of(f"{bucket}/data/cells/train/images.npy")
    theirs.write_bytes(b"theirs")
    command = ["data", "prepare", "cells", "--data", f"{bucket}/data", "--source", str(npz(tmp_path / "cells.npz"))]
    assert main([*command, "--overwrite"]) == 2
    assert "train/images.npy, which mdssl did not write" in capsys.readouterr().err
    assert theirs.read_bytes() == b"theirs"


def test_list_and_show_work_for_a_bucket(remote, tmp_path, capsys, cache):
    assert main(["data", "list", "--data", remote]) == 0
    said = capsys.readouterr().out
    assert f"prepared in {remote}" in said and "tiny-c             64 train / 32 test" in said
    assert not cache.exists(), "`mdssl data list` must not copy datasets"
    assert main(["data", "show", "tiny-c", "--data", remote, "--output", str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_missing_datasets_buckets_and_files_are_reported(remote, bucket):
    with pytest.raises(ValueError, match=rf"unknown dataset 'tiny-x'.*Prepared in {remote}: tiny-a, tiny-b, tiny-c"):
        ensure_local(remote, ["tiny-a", "tiny-x"])
    with pytest.raises(
        ValueError, match=rf"'svhn' is not prepared in {remote}.*mdssl data prepare svhn --data {remote}"
    ):
        ensure_local(remote, ["svhn"])
    with pytest.raises(ValueError, match=f"there is no bucket '{bucket[5:]}-not'"):
        ensure_local(f"{bucket}-not/data", ["tiny-a"])
    Location.of(f"{remote}/tiny-b/test/labels.npy").delete()
    with pytest.raises(ValueError, match=f"{remote}/tiny-b/test/labels.npy is missing"):
        ensure_local(remote, ["tiny-b"])


def test_an_unwritable_cache_is_reported_with_its_environment_variable(remote, monkeypatch):
    monkeypatch.setenv("MDSSL_DATA_CACHE", "/proc/nothing")
    with pytest.raises(ValueError, match=r"'/proc/nothing/.* cannot be written.*MDSSL_DATA_CACHE"):
        ensure_local(remote, ["tiny-a"])
