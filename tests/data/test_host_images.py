"""Images on the host: batches equal those on the device, a thread prefetches them, and memory is bounded."""

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from factories import Killed, kill_at, tiny_trial

from mdssl.config.run import RunSettings
from mdssl.data.host_images import HostImages
from mdssl.data.mixture import Mixture
from mdssl.device import fits
from mdssl.pretrain.loop import train


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return [rng.integers(256, size=(count, 4, 4, 3), dtype=np.uint8) for count in (50, 30, 20)]


@pytest.mark.parametrize(
    "rows",
    [
        np.arange(7),
        np.concatenate([np.arange(49, 40, -1), np.arange(80, 90), [50]]),
        np.random.default_rng(1).permutation(100),
        np.array([99, 0, 99]),
        np.array([], dtype=np.int64),
    ],
    ids=["one domain", "domain by domain", "mixed", "twice", "none"],
)
def test_a_batch_has_the_images_of_its_rows(arrays, rows):
    everything = torch.from_numpy(np.concatenate(arrays))
    images = HostImages(arrays, "cpu")
    for ahead in (None, lambda: rows, lambda: rows[::-1], None):
        # Without a prefetched batch, with the right one, and with a wrong one.
        assert torch.equal(images.take(rows, ahead), everything[torch.from_numpy(rows)])


def test_a_thread_prefetches_the_next_batch(arrays, monkeypatch):
    gathered = []
    gather = HostImages._gather

    def noted(self, rows):
        gathered.append((rows.tolist(), threading.current_thread().name.partition("_")[0]))
        return gather(self, rows)

    monkeypatch.setattr(HostImages, "_gather", noted)
    images = HostImages(arrays, "cpu")
    for step in range(3):
        images.take(np.array([step]), then=lambda step=step: np.array([step + 1]))
    # The main thread gathers the first batch; the worker thread gathers each later batch once, before it is taken.
    images._thread.shutdown()
    assert gathered == [([0], "MainThread"), ([1], "images"), ([2], "images"), ([3], "images")]


def test_memory_mapped_pages_are_released_after_each_batch(tmp_path):
    def mapped_mib():
        (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssFile"))
        return int(line.split()[1]) / 2**10

    np.save(tmp_path / "images.npy", np.ones((16384, 32, 32, 3), dtype=np.uint8))
    array = np.load(tmp_path / "images.npy", mmap_mode="r")
    images, before = HostImages([array], "cpu"), mapped_mib()
    order = np.random.default_rng(0).permutation(len(array))
    for rows in order.reshape(-1, 1024):
        assert images.take(rows).numpy().all()
    assert mapped_mib() - before < 8
    # For comparison: after a plain copy of as many rows, their pages stay in memory.
    array[order].sum()
    assert mapped_mib() - before > 40


@pytest.mark.parametrize(
    "changes",
    [{}, {"method": "mdssl-robust", "warmup_iterations": 2, "recluster_every": 2}],
    ids=lambda changes: changes.get("method", "mdssl"),
)
def test_training_is_the_same_with_images_on_the_host(tiny_data, tmp_path, changes, caplog):
    caplog.set_level(logging.INFO, logger="mdssl")
    encoders = []
    for images_on in ("device", "host"):
        settings = RunSettings(images_on=images_on, report_every=1, checkpoint_seconds=0, track=())
        own = dict(data=tiny_data, trial_dir=tmp_path / images_on, settings=settings, device="cpu")
        with pytest.raises(Killed):
            train(tiny_trial(**changes), report=kill_at(4), **own)
        train(tiny_trial(**changes), **own)
        encoders.append(safetensors.torch.load((tmp_path / images_on / "encoder.safetensors").read_bytes()))
    assert all(torch.equal(value, encoders[1][name]) for name, value in encoders[0].items())
    said = [line for line in caplog.messages if "stay on the host" in line]
    # 2 domains of 64 images of 16×16 pixels; each of the two starts logs this line.
    assert said == ["9.83e-05 GB of images stay on the host; batches are copied to cpu while it trains"] * 2


@pytest.mark.parametrize(
    ("size", "free", "reserved", "share", "expected"),
    [(10, 30, 0, 1.0, True), (10, 29, 0, 1.0, False), (10, 80, 51, 0.8, False), (10, 80, 50, 0.8, True)],
    ids=["just fits", "others use the memory", "its share is used", "its share is not used"],
)
def test_images_go_to_a_gpu_if_they_leave_two_thirds_free(monkeypatch, size, free, reserved, share, expected):
    for name, value in {
        "mem_get_info": (free, 100),
        "get_per_process_memory_fraction": share,
        "memory_reserved": reserved,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert fits(size, "cuda:0") is expected
    assert fits(10**15, "cpu")


def test_auto_puts_images_on_the_device_if_they_fit(tiny_data, monkeypatch):
    own = dict(batch_per_domain=8, device="cpu", images_on="auto")
    sizes = []
    monkeypatch.setattr("mdssl.data.mixture.fits", lambda size, device: sizes.append(size) or len(sizes) == 1)
    assert Mixture.load(tiny_data, ("tiny-a", "tiny-b"), **own).on_host is None
    assert Mixture.load(tiny_data, ("tiny-a", "tiny-b"), **own).on_host is not None
    assert sizes == [2 * 64 * 16 * 16 * 3] * 2
