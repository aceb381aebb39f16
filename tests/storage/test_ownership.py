"""mdssl never replaces or deletes files that it did not write, also when a command fails or is killed."""

import os
import random
import shutil
import subprocess
import sys
from contextlib import suppress

import pytest
from filelock import FileLock, Timeout
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from user_files import a_dataset, an_export, random_tree, snapshot, write_images

from mdssl.config.trial import TrialConfig
from mdssl.data.atomic_folder import DATASET, locked
from mdssl.data.prepare import prepare
from mdssl.data.remote import fetch, prepare_in
from mdssl.data.sources.open import DOWNLOADS
from mdssl.errors import InputError
from mdssl.export.folder import EXPORT
from mdssl.pretrain.loop import train
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location
from mdssl.storage.ownership import check_file, clear_leftovers, delete, refuse_overlap, replaced
from mdssl.storage.trial_dir import TRIAL, delete_trial


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """A storage with an untrained encoder, and the id of its trial."""
    folder = tmp_path_factory.mktemp("storage")
    config = TrialConfig(method="random", precision="fp32", arch="resnet18")
    train(config, data="", trial_dir=Location.of(folder) / "trials" / config.trial_id, device="cpu")
    return folder, config.trial_id


@pytest.mark.parametrize(("command", "trees"), [(a_dataset, 60), (an_export, 12)])
def test_files_of_the_user_stay(command, trees, tmp_path, storage):
    """The target is absent, has files of the user, is a link, or overlaps with the source; some commands fail."""
    outcomes = set()
    for number in range(trees):
        rng = random.Random(number)
        place = tmp_path / str(number)
        target = place / "data" / "cells"
        source = write_images(place / rng.choice(["source", "data/cells", "data/cells/raw", "data"]))
        if rng.random() < 0.6:
            random_tree(target, rng)
        elif rng.random() < 0.5 and not target.exists():
            random_tree(place / "disk", rng)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(place / "disk")
        is_link = target.is_symlink()
        if rng.random() < 0.2:
            (source / "cat" / "0.png").write_bytes(b"damaged")
        before = snapshot(place)
        try:
            command(source, target, storage)
            outcomes.add("done")
        except InputError:
            outcomes.add("refused")
        after = snapshot(place)
        assert {name: after.get(name) for name in before} == before, number
        assert target.is_symlink() == is_link
    assert outcomes == {"done", "refused"}


@pytest.mark.parametrize("moment", range(5))
def test_kill_at_any_moment_loses_no_file(moment, tmp_path):
    """The process ends at the n-th rename or deletion. The next run removes leftovers and keeps files of the user."""
    script = f"""
import os, shutil, sys
from mdssl.data.prepare import prepare
count = 0
def counted(function):
    def wrapped(*arguments, **options):
        global count
        if count == {moment}:
            os._exit(9)
        count += 1
        return function(*arguments, **options)
    return wrapped
for name in ("rename", "replace", "rmdir", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
prepare("cells", data=sys.argv[1], source=sys.argv[2], overwrite=True, image_size=8, workers=1, progress=False)
"""
    source, data = write_images(tmp_path / "source"), tmp_path / "data"
    prepare("cells", data=data, source=source, image_size=8, workers=1, progress=False)
    (data / ".cells.notes.tmp").mkdir()
    (data / ".cells.notes.tmp" / "images.npy").write_bytes(b"mine")
    (data / ".cells.old").write_bytes(b"mine")
    before = {name: content for name, content in snapshot(tmp_path).items() if not name.startswith("data/cells/")}
    ended = subprocess.run([sys.executable, "-c", script, str(data), str(source)], capture_output=True, text=True)
    assert ended.returncode in (0, 9), ended.stderr
    a_dataset(source, data / "cells", None)
    after = snapshot(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert list(data.glob(".cells.mdssl-*")) == []


def test_dataset_is_written_through_a_link_to_an_empty_folder(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cells").symlink_to(tmp_path / "disk")
    a_dataset(write_images(tmp_path / "source"), tmp_path / "data/cells", None)
    assert (tmp_path / "data/cells").is_symlink()
    assert (tmp_path / "disk/meta.json").is_file()


def test_export_into_a_git_clone_keeps_its_files(storage, tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path / "hub")], check=True)
    (tmp_path / "hub/.gitattributes").write_text("*.safetensors filter=lfs")
    before = snapshot(tmp_path)
    for _ in range(2):
        an_export(None, tmp_path / "hub", storage)
        after = snapshot(tmp_path)
        assert {name: after.get(name) for name in before} == before
        assert (tmp_path / "hub/model.safetensors").is_file()
        # Git fails without the empty folders of .git.
        subprocess.run(["git", "-C", str(tmp_path / "hub"), "status"], check=True, capture_output=True)


def test_failed_export_leaves_the_git_clone_unchanged(storage, tmp_path, monkeypatch):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/.gitattributes").write_text("mine")
    write = Location.write_bytes

    def full(self, data):
        if self.name == EXPORT.marker:
            raise OSError(28, "No space left on device")
        write(self, data)

    monkeypatch.setattr(Location, "write_bytes", full)
    with pytest.raises(ValueError, match="No space left"):
        an_export(None, tmp_path / "hub", storage)
    assert list(snapshot(tmp_path / "hub")) == [".gitattributes"]


def test_force_deletes_only_files_of_the_trial(storage, tmp_path):
    folder = tmp_path / "trials" / storage[1]
    shutil.copytree(storage[0] / "trials" / storage[1], folder)
    for name in ("notes.md", "checkpoints/mine.pt", ".hidden"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    with Claim(Location.of(folder)) as claim:
        assert claim.take() is None
        delete_trial(claim.trial_dir)
        left = set(snapshot(folder))
    assert left - {"claim.json"} == {"notes.md", "checkpoints/mine.pt", ".hidden"}


def test_all_files_of_a_trial_are_recognized(storage):
    """Otherwise --force would not delete all of them."""
    files = snapshot(storage[0] / "trials" / storage[1])
    assert [file for file in files if not TRIAL.holds(file)] == []


def test_files_of_the_user_in_a_bucket_stay(bucket, storage, tmp_path):
    mine = Location.of(bucket) / "data" / "cells" / ".hidden"
    mine.write_bytes(b"mine")
    source = write_images(tmp_path / "source")
    with pytest.raises(InputError, match=r"contains \.hidden, which mdssl did not write as a prepared dataset"):
        prepare_in(f"{bucket}/data", "cells", source=source, image_size=8, workers=1, progress=False)
    with pytest.raises(InputError, match=r"contains \.hidden, which mdssl did not write as an export"):
        an_export(None, mine.parent, storage)
    assert mine.read_bytes() == b"mine"


def test_download_from_a_bucket_replaces_only_earlier_downloads(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("MDSSL_DATA_CACHE", str(tmp_path / "cache"))
    source = write_images(tmp_path / "source")
    prepare_in(f"{bucket}/data", "cells", source=source, image_size=8, workers=1, progress=False)
    folder = tmp_path / "other"
    random_tree(folder / "cells", random.Random(1))
    before = snapshot(folder)
    with pytest.raises(InputError, match="which mdssl did not write"):
        fetch(Location.of(bucket) / "data", folder, "cells")
    after = snapshot(folder)
    assert {name: after.get(name) for name in before} == before


def test_unpacking_an_archive_keeps_files_of_the_user(tmp_path):
    mine = tmp_path / DOWNLOADS / "eurosat/2750/Forest/mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    archive = shutil.make_archive(tmp_path / "EuroSAT", "zip", write_images(tmp_path / "zip/2750").parent)
    shutil.copy(archive, tmp_path / DOWNLOADS / "eurosat/EuroSAT.zip")
    with suppress(InputError):
        prepare("eurosat", data=tmp_path, progress=False)
    assert mine.read_text() == "mine"


def test_overlap_of_source_and_target_is_detected_through_links_and_dots(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    what = {"what": "a prepared dataset", "setting": "--data"}
    for source, target in (("a", "link/b"), ("link", "a/b/new"), ("a/../a/b", "link"), ("a", "a"), ("a/b", "link/.")):
        with pytest.raises(InputError, match="lies in"):
            refuse_overlap(tmp_path / source, Location.of(tmp_path / target), **what)
    refuse_overlap(tmp_path / "a/b", Location.of(tmp_path / "a/c"), **what)


@pytest.mark.parametrize("meta", ["", "{", "[]", '{"format": 1, "classes": [], "splits": {}}', "// mine"])
def test_foreign_meta_json_does_not_mark_a_dataset(meta, tmp_path):
    write_images(tmp_path / "source")
    a_dataset(tmp_path / "source", tmp_path / "data/cells", None)
    (tmp_path / "data/cells/meta.json").write_text(meta)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match="did not write"):
        a_dataset(tmp_path / "source", tmp_path / "data/cells", None)
    assert snapshot(tmp_path) == before


def test_files_that_resemble_leftovers_stay(tmp_path):
    source, data = write_images(tmp_path / "source"), tmp_path / "data"
    for name in (".cells.mdssl-0123abcd.old/notes.txt", ".cells.0123abcd.tmp/meta.json", ".cells.0123abcd.old/a"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/meta.json").write_text("mine")
    (data / ".cells.mdssl-89abcdef.tmp").symlink_to(tmp_path / "elsewhere")
    before = snapshot(tmp_path)
    a_dataset(source, data / "cells", None)
    after = snapshot(tmp_path)
    assert {name: after.get(name) for name in before} == before


def test_unfinished_folder_is_resumed_only_without_other_files(tmp_path):
    for name, files in {"01234567": ["meta.json", "mine.txt"], "89abcdef": ["meta.json"], "fedcba98": []}.items():
        (tmp_path / f".cells.mdssl-{name}.tmp").mkdir()
        for file in files:
            (tmp_path / f".cells.mdssl-{name}.tmp" / file).write_text("{}")
    (tmp_path / ".cells.mdssl-00000000.tmp").symlink_to(tmp_path / ".cells.mdssl-01234567.tmp")
    clear_leftovers(tmp_path / "cells", DATASET, resumes=True)
    with suppress(KeyboardInterrupt), replaced(tmp_path / "cells", DATASET, resumes=True) as folder:
        assert folder.name == ".cells.mdssl-89abcdef.tmp"
        raise KeyboardInterrupt
    left = {".cells.mdssl-00000000.tmp", ".cells.mdssl-01234567.tmp/mine.txt", ".cells.mdssl-89abcdef.tmp/meta.json"}
    assert set(snapshot(tmp_path)) == left
    with suppress(OSError), replaced(tmp_path / "cells", DATASET, resumes=True):
        raise OSError
    assert not (tmp_path / ".cells.mdssl-89abcdef.tmp").exists()


def test_linked_folders_share_a_lock(tmp_path):
    source, data = write_images(tmp_path / "source"), tmp_path / "data"
    a_dataset(source, data / "cells", None)
    (data / "alias").symlink_to(data / "cells")
    with locked(data, "alias", progress=False), pytest.raises(Timeout):
        FileLock(data / ".cells.lock").acquire(timeout=0)


def test_picture_whose_comment_mentions_mdssl_is_not_overwritten(tmp_path):
    mark = PngInfo()
    mark.add_text("Comment", "screenshot of mdssl")
    Image.new("RGB", (3, 3)).save(tmp_path / "mine.png", pnginfo=mark)
    with pytest.raises(InputError, match="mdssl did not write it"):
        check_file(Location.of(tmp_path / "mine.png"))


def test_a_pipe_is_refused_without_a_wait_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / "sheet.png")
    with pytest.raises(InputError, match=r"sheet\.png is a pipe or a device, where no file can be written"):
        check_file(Location.of(tmp_path / "sheet.png"))


def test_file_added_during_a_replacement_stays(tmp_path):
    """The user writes into the folder while its replacement is made."""
    a_dataset(write_images(tmp_path / "source"), tmp_path / "data/cells", None)
    with pytest.raises(InputError, match=r"contains mine\.txt"), replaced(tmp_path / "data/cells", DATASET) as folder:
        (folder / "meta.json").write_text("{}")
        (tmp_path / "data/cells/mine.txt").write_text("mine")
    assert (tmp_path / "data/cells/mine.txt").read_text() == "mine"
    clear_leftovers(tmp_path / "data/cells", DATASET)
    delete(Location.of(tmp_path / "data/cells"), DATASET)
    assert set(snapshot(tmp_path / "data")) == {"cells/mine.txt", ".cells.lock"}
