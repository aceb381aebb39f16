"""Preparing a dataset: it is prepared once, atomically, and with reproducible bytes."""

import hashlib
import json
import multiprocessing
import os
import re
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest

from mdssl.cli.main import main
from mdssl.data import arrays, decode, estimate
from mdssl.data import prepare as prepare_module
from mdssl.data.dataset import open_dataset
from mdssl.data.prepare import ensure_builtin, prepare
from mdssl.data.remote import list_prepared


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def names_in(data):
    """The names in the data folder, except those of locks."""
    return sorted(path.name for path in data.iterdir() if not path.name.endswith(".lock"))


def contents(folder):
    """The digest of every file except ``meta.json``, which contains the time."""
    files = sorted(path for path in folder.rglob("*.npy"))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_meta_json_records_the_settings_and_the_splits(data, write_npz):
    toy = prepare("toy", data=data, source=write_npz(), image_size=16, resize_filter="box", progress=False)
    meta = json.loads((data / "toy/meta.json").read_text())
    assert meta == toy.meta
    assert (meta["image_size"], meta["resize_filter"], meta["builtin"]) == (16, "box", False)
    assert meta["splits"]["train"]["count"] == 12
    assert meta["splits"]["test"]["per_class"] == [2, 2, 2]
    assert str(data.parent) not in json.dumps(meta)
    assert toy.split("train").images.shape == (12, 16, 16, 3)


def test_arrays_are_read_only_memory_maps(data, write_npz):
    split = prepare("toy", data=data, source=write_npz(), progress=False).split("train")
    assert isinstance(split.images, np.memmap)
    assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)
    with pytest.raises(ValueError, match="read-only"):
        split.images[0] = 0


def test_the_fingerprint_changes_with_one_pixel_or_one_label(data, write_npz, random_images):
    images, labels = random_images(12), np.arange(12) % 3
    brighter, relabelled = images.copy(), labels.copy()
    brighter[7, 3, 3, 1] ^= 1
    relabelled[5] = 1
    fingerprints = set()
    for number, (x, y) in enumerate([(images, labels), (brighter, labels), (images, relabelled)]):
        source = write_npz(f"{number}.npz", train_images=x, train_labels=y)
        fingerprints.add(prepare(f"toy{number}", data=data, source=source, progress=False).fingerprints["train"])
    assert len(fingerprints) == 3
    again = prepare("again", data=data, source=write_npz(train_images=images, train_labels=labels), progress=False)
    assert again.fingerprints["train"] in fingerprints
    assert again.split("train").fingerprint == again.fingerprints["train"]


def test_preparing_again_opens_the_existing_dataset(data, write_npz):
    path = write_npz()
    first = prepare("toy", data=data, source=path, progress=False)
    assert prepare("toy", data=data, source=path, progress=False).meta == first.meta
    path.unlink()
    assert prepare("toy", data=data, progress=False).meta == first.meta


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 24}, "image size 32, not 24"),
        ({"resize_filter": "box"}, "resize filter bicubic, not box"),
        ({"source": "other.npz"}, "source toy.npz, not other.npz"),
        ({"source": "elsewhere/toy.npz"}, "source toy.npz in another folder, not toy.npz"),
    ],
)
def test_other_settings_replace_a_dataset_only_with_overwrite(data, write_npz, settings, message):
    prepare("toy", data=data, source=write_npz(), progress=False)
    settings = {"source": write_npz(settings.pop("source", "toy.npz")), **settings}
    with pytest.raises(ValueError, match=f"{message}.*--overwrite"):
        prepare("toy", data=data, progress=False, **settings)
    replaced = prepare("toy", data=data, overwrite=True, progress=False, **settings)
    assert replaced.image_size == settings.get("image_size", 32)
    assert names_in(data) == ["toy"]


def test_a_pool_of_processes_gives_the_same_bytes(data, write_npz, random_images, monkeypatch):
    source = write_npz(train_images=random_images(200, size=40), train_labels=np.arange(200) % 3)
    prepare("alone", data=data, source=source, workers=1, progress=False)
    monkeypatch.setattr(decode, "POOL_PAYS_AFTER_SECONDS", 0)
    prepare("pool", data=data, source=source, workers=2, progress=False)
    assert contents(data / "alone") == contents(data / "pool")


def test_a_failure_in_the_pool_names_the_image_and_leaves_no_dataset(data, write_folder, random_images, monkeypatch):
    monkeypatch.setattr(decode, "POOL_PAYS_AFTER_SECONDS", 0)
    root = write_folder({"train/cat": random_images(100), "train/dog": random_images(100)})
    (root / "train/dog/090.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train/dog/090\.png cannot be decoded"):
        prepare("toy", data=data, source=root, workers=2, test_fraction=0.01, progress=False)
    assert list_prepared(data) == ([], [])


def test_a_killed_decoding_process_is_reported_with_fewer_workers_as_the_hint(
    data, write_npz, random_images, monkeypatch
):
    monkeypatch.setattr(decode, "POOL_PAYS_AFTER_SECONDS", 0)
    monkeypatch.setattr(decode, "_end_with_parent", os.abort)
    source = write_npz(train_images=random_images(200, size=40), train_labels=np.arange(200) % 3)
    with pytest.raises(ValueError, match=r"one of the 2 processes that decode images ended.*--workers 1,"):
        prepare("toy", data=data, source=source, workers=2, progress=False)


def test_a_full_disk_is_reported_and_leaves_no_files(data, write_npz, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(arrays, "_to_disk", fail)
    with pytest.raises(ValueError, match="No space left on device"):
        prepare("toy", data=data, source=write_npz(), progress=False)
    assert names_in(data) == []


def test_a_failed_overwrite_keeps_the_old_dataset(data, write_npz):
    first = prepare("toy", data=data, source=write_npz(), progress=False)
    bad = write_npz("bad.npz", train_labels=-2 * np.ones(12, dtype=int))
    with pytest.raises(ValueError, match="negative label"):
        prepare("toy", data=data, source=bad, overwrite=True, progress=False)
    assert open_dataset(data, "toy").meta == first.meta


def test_overwriting_a_dataset_keeps_its_empty_folders(data, write_npz):
    prepare("toy", data=data, source=write_npz(), progress=False)
    (data / "toy/my notes/later").mkdir(parents=True)
    prepare("toy", data=data, source=write_npz(), overwrite=True, progress=False)
    assert (data / "toy/my notes/later").is_dir()
    assert names_in(data) == ["toy"]


def test_a_mount_point_is_refused_before_decoding(data, write_npz, monkeypatch):
    (data / "toy").mkdir(parents=True)
    monkeypatch.setattr(prepare_module, "open_source", None)
    monkeypatch.setattr("os.path.ismount", lambda path: path == str(data / "toy"))
    with pytest.raises(ValueError, match=r"toy is a mount point, .* Mount its parent folder"):
        prepare("toy", data=data, source=write_npz(), progress=False)


def _prepare_slowly(data, source, started, delay):
    write = prepare_module.write_arrays

    def slow(*arguments):
        started.set()
        time.sleep(delay)
        return write(*arguments)

    prepare_module.write_arrays = slow
    prepare("toy", data=data, source=source, progress=False)


@pytest.fixture
def start_slowly(data):
    """Start a process that prepares ``source``, and return the process when it starts to write arrays."""
    context = multiprocessing.get_context("spawn")
    processes = []

    def start(source, delay):
        started = context.Event()
        process = context.Process(target=_prepare_slowly, args=(data, source, started, delay))
        process.start()
        processes.append(process)
        assert started.wait(120)
        return process

    yield start
    for process in processes:
        process.kill()
        process.join()


def test_the_next_run_removes_the_files_of_a_killed_run(data, write_npz, start_slowly):
    path = write_npz()
    process = start_slowly(path, delay=60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [re.sub(r"\.mdssl-\w{8}\.", ".", name) for name in names_in(data)] == [".toy.tmp"]
    with pytest.raises(ValueError, match=r"unknown dataset 'toy'.*Prepared in .*: none yet"):
        open_dataset(data, "toy")
    assert list_prepared(data) == ([], [])
    prepare("toy", data=data, source=path, progress=False)
    assert names_in(data) == ["toy"]


def test_a_run_killed_between_its_renames_loses_no_data(data, write_npz):
    path = write_npz()
    first = prepare("toy", data=data, source=path, progress=False)
    (data / "toy").rename(data / ".toy.mdssl-0123abcd.old")
    assert prepare("toy", data=data, source=path, progress=False).meta == first.meta
    assert names_in(data) == ["toy"]


def test_a_second_process_waits_and_opens_the_result_of_the_first(data, write_npz, start_slowly, capfd):
    path = write_npz()
    process = start_slowly(path, delay=2)
    ours = prepare("toy", data=data, source=path, progress=True)
    process.join()
    assert process.exitcode == 0
    assert "another process is preparing or fetching toy; waiting for it" in capfd.readouterr().err
    assert ours.meta == open_dataset(data, "toy").meta
    assert names_in(data) == ["toy"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cifar10+svhn"}, "dataset name 'cifar10\\+svhn' is not valid"),
        ({"name": ".toy"}, "not valid"),
        ({"name": "a/b"}, "not valid.*goes to --source a/b"),
        ({"name": ""}, "not valid"),
        ({"name": "downloads"}, "not valid"),
        ({"name": "builtin-digits"}, "is that of a built-in domain"),
        ({"image_size": 7}, "image size is 7"),
        ({"resize_filter": "cubic"}, "Did you mean 'bicubic'"),
        ({"test_fraction": 1.0}, "test fraction is 1.0"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_bad_settings_are_refused_before_the_data_folder_is_created(data, write_npz, settings, message):
    settings = {"name": "toy", **settings}
    with pytest.raises(ValueError, match=message):
        prepare(settings.pop("name"), data=data, source=write_npz(), progress=False, **settings)
    assert not data.exists()


def test_all_dataset_names_are_checked_before_the_first_is_prepared(data, write_npz, capsys):
    assert main(["data", "prepare", "toy", "./images", "--source", str(write_npz()), "--data", str(data)]) == 2
    assert "dataset name './images' is not valid" in capsys.readouterr().err
    assert not data.exists()


def test_an_unknown_dataset_is_refused_with_the_nearest_name(data):
    with pytest.raises(ValueError, match=r"unknown dataset 'cifar1O'.*Did you mean 'cifar10'\?.*--source PATH"):
        prepare("cifar1O", data=data, progress=False)


def test_an_unwritable_data_folder_is_refused(tmp_path, write_npz):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"data folder .* cannot be written.*MDSSL_DATA"):
        prepare("toy", data=tmp_path / "file", source=write_npz(), progress=False)


def test_ensure_builtin_prepares_only_missing_builtin_domains(data):
    with pytest.raises(ValueError, match="'cifar10' is not prepared"):
        ensure_builtin(data, ["builtin-textures", "cifar10"])
    assert not data.exists()
    ensure_builtin(data, ["builtin-textures"])
    assert names_in(data) == ["builtin-textures"]
    before = (data / "builtin-textures/meta.json").stat().st_mtime_ns
    ensure_builtin(data, ["builtin-textures"])
    assert (data / "builtin-textures/meta.json").stat().st_mtime_ns == before


def test_size_and_time_of_a_large_dataset_are_printed_first(data, write_npz, monkeypatch, capsys):
    monkeypatch.setattr(estimate, "_SAID_FROM_BYTES", 1)
    # The largest part has 12 images, which take 1 s each here.
    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=iter((100.0, 112.0)).__next__))
    prepare("toy", data=data, source=write_npz(), image_size=224, workers=1)
    said = "toy: 18 images at 224 x 224 pixels take 0.0 GB, and about 18 s to decode with 1 process"
    assert said in capsys.readouterr().err
    monkeypatch.undo()
    prepare("small", data=data, source=write_npz(), workers=1)
    assert "images at" not in capsys.readouterr().err


def test_insufficient_disk_space_is_refused_before_decoding(data, write_npz, monkeypatch):
    free, large = 18 * 224 * 224 * 3, data.parent / "large"
    for folder in (data, large):
        folder.mkdir()
    # The disk of the link's target is too small, that of the data folder is not.
    (data / "toy").symlink_to(large / "toy")
    usage = "mdssl.data.estimate.shutil.disk_usage"
    monkeypatch.setattr(usage, lambda folder: SimpleNamespace(free=free - folder.is_relative_to(large)))
    with pytest.raises(ValueError, match=r"'toy' has 18 .* at 224 x 224 pixels, but .*/large has .*smaller --size"):
        prepare("toy", data=data, source=write_npz(), image_size=224, progress=False)
    assert names_in(large) == []
    monkeypatch.setattr(usage, lambda folder: SimpleNamespace(free=free))
    prepare("toy", data=data, source=write_npz(), image_size=224, progress=False)
