"""Resuming an interrupted preparation: no image is decoded twice, and the bytes match an uninterrupted run."""

import itertools
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.progress import Progress

from mdssl.cli.main import main
from mdssl.data import decode, estimate
from mdssl.data.atomic_folder import ARRAYS
from mdssl.data.prepare import prepare
from mdssl.data.remote import list_prepared
from tests.processes import ours, wait_for

CHUNK = decode.CHUNK


@pytest.fixture
def photos(tmp_path, random_images):
    """240 training photos, 40 of them without a label, and 80 test photos; one is damaged, one has two frames."""
    root = tmp_path / "photos"
    for folder, count in {"train/cat": 100, "train/dog": 100, "unlabelled": 40, "test/cat": 40, "test/dog": 40}.items():
        (root / folder).mkdir(parents=True)
        for number, image in enumerate(random_images(count, size=40)):
            Image.fromarray(image).save(root / folder / f"{number:03d}.jpg", quality=90)
    (root / "train/cat/007.jpg").write_bytes(b"damaged")
    frames = [Image.fromarray(image) for image in random_images(2)]
    frames[0].save(root / "train/cat/008.gif", save_all=True, append_images=frames[1:])
    return root


@pytest.fixture
def decoded(monkeypatch):
    """The names of decoded images. After ``until`` of them, Ctrl-C interrupts the run."""
    convert = decode.convert
    log = SimpleNamespace(names=[], until=None)

    def logged(raw, size, resize_filter, where, *rest):
        if len(log.names) == log.until:
            raise KeyboardInterrupt
        log.names.append(where)
        return convert(raw, size, resize_filter, where, *rest)

    monkeypatch.setattr(decode, "convert", logged)
    return log


@pytest.fixture
def run(tmp_path, photos, decoded):
    """(until) -> the photos that one run decodes; if ``until`` is given, Ctrl-C interrupts it after that many."""

    def run(until=None, data=tmp_path / "data", **options):
        options = {"image_size": 16, "skip_damaged": True, "workers": 1, "progress": False, "source": photos} | options
        decoded.names, decoded.until = [], until
        if until is None:
            prepare("toy", data=data, **options)
        else:
            with pytest.raises(KeyboardInterrupt):
                prepare("toy", data=data, **options)
            assert list_prepared(data) == ([], [])
        return decoded.names

    return run


def unfinished(data):
    (folder,) = data.glob(".toy.mdssl-*.tmp")
    return folder


def contents(data):
    """All files of the data folder, without locks and without the time in ``meta.json``."""
    files = [path for path in data.rglob("*") if path.is_file() and path.suffix != ".lock"]
    read = {str(path.relative_to(data)): path.read_bytes() for path in files}
    return read | {"toy/meta.json": read["toy/meta.json"].partition(b'"created_at"')[0]}


@pytest.fixture
def expected(run, tmp_path):
    run(data=tmp_path / "undisturbed")
    found = contents(tmp_path / "undisturbed")
    assert found.keys() == {"toy/meta.json", *(f"toy/{array}" for array in ARRAYS)}
    return found


@pytest.mark.parametrize("moments", [[10], [100], [230], [300], [100, 30, 120]])
def test_no_image_is_decoded_twice_and_the_bytes_are_the_same(run, expected, tmp_path, moments):
    # The borders of chunks: 201 training images, 40 images without labels and 80 test images.
    borders, kept = (0, 64, 128, 192, 201, 241, 305, 321), 0
    for until in moments:
        assert len(run(until)) == until
        kept = max(border for border in borders if border <= kept + until)
    assert len(run()) == 321 - kept
    assert contents(tmp_path / "data") == expected


def test_a_resumed_run_prints_the_number_of_its_first_image(run, tmp_path, capsys):
    run(until=100)
    run(progress=True)
    assert "toy: continues at image 65 of 321\n" in capsys.readouterr().err


@pytest.mark.parametrize("until", [100, 230])
def test_the_progress_rate_ignores_images_of_the_interrupted_run(run, decoded, monkeypatch, until):
    run(until=until)
    calls, bars = itertools.count(), []

    def clock() -> float:
        """One second for each decoded image, and almost none for an image of the interrupted run."""
        return len(decoded.names) + 1e-6 * next(calls)

    class Recorded(Progress):
        """A progress bar that records the rate of a task after each change."""

        def update(self, task_id, **changes):
            super().update(task_id, **changes)
            rates.append(self.tasks[task_id].finished_speed or self.tasks[task_id].speed)

        def advance(self, task_id, advance=1):
            super().advance(task_id, advance)
            rates.append(self.tasks[task_id].finished_speed or self.tasks[task_id].speed)

    rates: list[float | None] = []

    def image_progress(shown: bool) -> Progress:
        bars.append(Recorded(get_time=clock, disable=True, speed_estimate_period=1e9))
        return bars[0]

    monkeypatch.setattr("mdssl.data.prepare.image_progress", image_progress)
    run()
    (bar,) = bars
    assert [(task.completed, task.finished) for task in bar.tasks] == [(201, True), (40, True), (80, True)]
    assert {round(rate, 3) for rate in rates if rate is not None} == {1.0}, rates


def test_a_run_interrupted_after_decoding_is_resumed(run, expected, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mdssl.data.prepare._meta", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run()
    assert run() == []
    assert contents(tmp_path / "data") == expected


def test_decoded_images_are_kept_if_a_run_fails_on_a_damaged_image(run, expected, tmp_path):
    with pytest.raises(ValueError, match=r"007\.jpg cannot be decoded"):
        run(skip_damaged=False)
    assert run(skip_damaged=True) == []
    assert contents(tmp_path / "data") == expected


@pytest.mark.parametrize("other", [{"image_size": 24}, {"resize_filter": "box"}])
def test_images_decoded_with_other_settings_are_not_reused(run, tmp_path, other):
    run(until=300)
    assert len(run(**other)) == 321
    run(data=tmp_path / "undisturbed", **other)
    assert contents(tmp_path / "data") == contents(tmp_path / "undisturbed")


def test_images_decoded_by_another_version_are_not_reused(run, expected, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(decode, "RECIPE", 0)
        run(until=300)
    assert len(run()) == 321
    assert contents(tmp_path / "data") == expected


@pytest.mark.parametrize(("changed", "decoded_again"), [("train/cat/000.jpg", 321), ("train/cat/070.jpg", 257)])
def test_a_changed_source_is_decoded_again_from_the_changed_chunk(run, photos, tmp_path, changed, decoded_again):
    run(until=300)
    state = (photos / changed).stat()
    Image.new("RGB", (40, 40), "red").save(photos / changed)
    # The file keeps its size; only its modification time differs.
    with open(photos / changed, "ab") as file:
        file.truncate(state.st_size)
    assert len(run()) == decoded_again
    run(data=tmp_path / "undisturbed")
    assert contents(tmp_path / "data") == contents(tmp_path / "undisturbed")


def test_images_removed_from_the_source_leave_no_data(run, photos, tmp_path):
    run(until=300)
    for path in (photos / "unlabelled").iterdir():
        path.unlink()
    assert len(run()) == 80
    run(data=tmp_path / "undisturbed")
    assert contents(tmp_path / "data") == contents(tmp_path / "undisturbed")


def test_npz_images_are_compared_by_content(run, tmp_path, write_npz, random_images):
    images = random_images(200)
    source = write_npz(train_images=images, train_labels=np.arange(200) % 3)
    run(until=130, source=source)
    images[64] += 1
    run(source=write_npz(train_images=images, train_labels=np.arange(200) % 3))
    run(data=tmp_path / "undisturbed", source=source)
    assert contents(tmp_path / "data") == contents(tmp_path / "undisturbed")


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("damage", "decoded_again"),
    [
        (lambda folder: flip(folder / "train/images.npy", 128), 321),
        (lambda folder: flip(folder / "train/images.npy", 128 + 64 * 768), 257),
        (lambda folder: os.truncate(folder / "train/images.npy", 0), 321),
        (lambda folder: flip(folder / "train/decoded.jsonl", 3), 321),
        (lambda folder: flip(folder / "train/decoded.jsonl", 120), 321),
        (lambda folder: (folder / "train/decoded.jsonl").write_bytes(b"null\n\xff\n"), 321),
        (lambda folder: cut(folder / "train/decoded.jsonl"), 193),
        (lambda folder: (folder / "train/images.npy").unlink(), 321),
    ],
)
def test_damaged_chunks_are_decoded_again(run, expected, tmp_path, damage, decoded_again):
    run(until=200)
    damage(unfinished(tmp_path / "data"))
    assert len(run()) == decoded_again
    assert contents(tmp_path / "data") == expected


def test_a_resumed_run_needs_disk_space_only_for_the_remaining_images(run, tmp_path, monkeypatch):
    run(until=200)
    there = sum(file.stat().st_size for file in unfinished(tmp_path / "data").glob("*/images.npy"))
    assert there == 128 + 191 * 768
    missing = SimpleNamespace(free=321 * 768 - there - 1)
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda folder: missing)
    with pytest.raises(ValueError, match="has 321 images, which take 0.0 GB"):
        run()
    missing.free += 1
    # The refused run has not deleted decoded images.
    assert len(run()) == 321 - 192


def test_a_killed_run_is_resumed_and_its_workers_exit(tmp_path, photos, expected, run):
    """Run the command itself, with two decoding processes."""
    script = """
import sys, time
from mdssl.cli.main import main
from mdssl.data import arrays, decode
decode.POOL_PAYS_AFTER_SECONDS = 0
write = arrays.Journal.write
def slow(*arguments):
    write(*arguments)
    time.sleep(0.5)
arrays.Journal.write = slow
main(sys.argv[1:])
"""
    data, token = tmp_path / "data", f"MDSSL_TEST={tmp_path}"
    command = ["data", "prepare", "toy", "--source", str(photos), "--data", str(data), "--size", "16", "--skip-damaged"]
    environment = os.environ | dict([token.split("=", 1)])
    process = subprocess.Popen([sys.executable, "-c", script, *command, "--workers", "2"], env=environment)
    wait_for(lambda: [file for file in data.glob(".toy.*/train/decoded.jsonl") if file.read_bytes().count(b"\n") >= 2])
    assert len(ours(token)) > 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not ours(token), seconds=20)
    assert len(run()) <= 321 - 2 * CHUNK
    assert contents(data) == expected


def test_message_after_ctrl_c_says_how_to_resume(run, photos, tmp_path, decoded, capsys):
    decoded.until = 70
    assert main(["data", "prepare", "toy", "--source", str(photos), "--data", str(tmp_path / "data")]) == 130
    assert "interrupted; the same command resumes from what was saved." in capsys.readouterr().err
