"""Storage: one interface to a local folder, a bucket and filesystems of fsspec; files are written atomically."""

import errno
import os
import uuid
from types import SimpleNamespace

import pyarrow.fs
import pytest
import s3_server

from mdssl.storage import filesystems
from mdssl.storage.location import Location


@pytest.fixture(params=["local", "file", "memory", "dir", "s3"])
def folder(request, tmp_path):
    """A folder on a disk, in a bucket or on a filesystem of fsspec; with ``dir::`` fsspec itself opens the disk."""
    if request.param == "s3":
        return Location.of(f"{request.getfixturevalue('bucket')}/new")
    uris = {"local": str(tmp_path / "new"), "file": f"file://{tmp_path}/new", "memory": f"memory://{uuid.uuid4().hex}"}
    return Location.of(uris.get(request.param) or f"dir::file://{tmp_path}")


def test_write_read_list_and_delete(folder):
    assert folder.names() == []
    assert not (folder / "a").exists()
    (folder / "a").write_bytes(b"one")
    (folder / "a").write_bytes(b"two")
    (folder / "deep" / "er").write_bytes(b"three")
    (folder / ".hidden").write_bytes(b"four")
    assert (folder / "a").read_bytes() == b"two"
    assert (folder / "deep" / "er").read_bytes() == b"three"
    assert folder.names() == ["a", "deep"]
    (folder / "a").delete()
    (folder / "a").delete()
    (folder / "deep").delete()
    assert folder.names() == []


def test_listing_has_sizes_and_times(tmp_path):
    folder = Location.of(tmp_path)
    (folder / "a").write_bytes(b"one two")
    (folder / "deep" / "er").write_bytes(b"three")
    listing = folder.listing()
    assert list(listing) == ["a", "deep"]
    assert (listing["a"].size, listing["a"].mtime_ns) == (7, os.stat(tmp_path / "a").st_mtime_ns)
    assert abs(folder.now_ns() - listing["a"].mtime_ns) < 60e9
    assert sorted(os.listdir(tmp_path)) == ["a", "deep"]


def test_storage_without_file_times_has_no_clock():
    folder = Location.of(f"memory://{uuid.uuid4().hex}")
    assert folder.now_ns() is None


def test_reading_a_missing_file_raises(folder):
    with pytest.raises(FileNotFoundError):
        (folder / "nothing").read_bytes()


def test_failed_write_leaves_only_the_old_file(tmp_path, monkeypatch):
    file = Location.of(tmp_path) / "row"
    file.write_bytes(b"old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        file.write_bytes(b"new")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["row"]


def test_uri_is_as_a_user_types_it(tmp_path):
    assert (Location.of(tmp_path) / "a").uri == f"{tmp_path}/a"
    assert Location.of(f"file://{tmp_path}/").uri == str(tmp_path)
    assert (Location.of("memory://bucket") / "a").uri == "memory://bucket/a"
    assert Location.of("memory://bucket").name == "bucket"


def test_unknown_scheme_and_unwritable_folder_are_refused():
    with pytest.raises(ValueError, match="storage 'nonsense://x' cannot be opened.*Give a local path"):
        Location.of("nonsense://x")
    with pytest.raises(ValueError, match="opened: Unexpected query parameter .*'regoin'. Correct the address"):
        Location.of("s3://bucket/x?regoin=eu-west-1")
    with pytest.raises(ValueError, match="storage '/proc/nothing' cannot be written.*--storage"):
        Location.of("/proc/nothing").check_writable()


def test_check_writable_refuses_a_full_disk(folder, monkeypatch):
    def full(self, data):
        if data:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Location, "_write", full)
    with pytest.raises(ValueError, match="cannot be written: .*No space left on device"):
        folder.check_writable()


def test_query_of_a_uri_stays_at_its_end(bucket, tmp_path):
    place = Location.of(f"{bucket}/new?region=us-east-1")
    (place / "a").write_bytes(b"one")
    assert (place / "a").uri == f"{bucket}/new/a?region=us-east-1"
    assert (place / "a").parent == place
    assert Location.of(f"{bucket}/new/a").read_bytes() == b"one"
    assert (Location.of(tmp_path / "what?") / "a").uri == f"{tmp_path}/what?/a"


def test_missing_or_forbidden_bucket_is_refused(bucket, monkeypatch):
    with pytest.raises(ValueError, match=f"storage '{bucket}x/new' cannot be opened: there is no bucket"):
        Location.of(f"{bucket}x/new")
    # This server accepts one unauthenticated request, which makes the bucket.
    with s3_server.running(INITIAL_NO_AUTH_ACTION_COUNT="1") as environment:
        other = s3_server.new_bucket(environment)
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment["AWS_ENDPOINT_URL"])
        with pytest.raises(ValueError, match=f"storage '{other}/new' cannot be opened: .*ACCESS_DENIED.*credentials"):
            Location.of(f"{other}/new")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with pytest.raises(ValueError, match=f"storage '{other}/new' cannot be opened: .*credentials"):
            Location.of(f"{other}/new")


def test_gs_uri_is_opened_by_pyarrow(monkeypatch):
    asked = []
    monkeypatch.setattr(filesystems, "_check_bucket", lambda filesystem, bucket, uri: asked.append(bucket))
    place = Location.of("gs://anonymous@bucket/new") / "leaderboard"
    assert isinstance(place.filesystem, pyarrow.fs.GcsFileSystem)
    assert (place.path, asked) == ("bucket/new/leaderboard", ["bucket"])


def test_write_new_does_not_overwrite(folder):
    assert (folder / "a").write_new(b"one")
    assert not (folder / "a").write_new(b"two")
    assert (folder / "a").read_bytes() == b"one"
    assert (folder / "a").write_new(b"one"), "a file with the same content counts as written"
    assert (folder / "deep" / "er").write_new(b"three")
    assert folder.names() == ["a", "deep"]


def test_write_new_works_without_hard_links(tmp_path, monkeypatch):
    def no_links(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    file = Location.of(tmp_path) / "a"
    assert [file.write_new(b"one"), file.write_new(b"two")] == [True, False]
    assert file.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["a"]


def test_clear_temporaries_deletes_files_of_killed_writers(tmp_path):
    folder = Location.of(tmp_path)
    for name in (".a.0123abcd.tmp", ".b.0123abcd.tmp", "a", ".kept", ".a.mine.tmp"):
        (tmp_path / name).write_bytes(b"")
    folder.clear_temporaries("a")
    assert sorted(os.listdir(tmp_path)) == [".a.mine.tmp", ".b.0123abcd.tmp", ".kept", "a"]
    folder.clear_temporaries()
    assert sorted(os.listdir(tmp_path)) == [".a.mine.tmp", ".kept", "a"]


def test_write_follows_a_link_and_keeps_it(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/a").write_bytes(b"old")
    (tmp_path / "b").symlink_to(tmp_path / "disk/a")
    Location.of(tmp_path / "b").write_bytes(b"new")
    assert (tmp_path / "b").is_symlink()
    assert (tmp_path / "disk/a").read_bytes() == b"new"
    assert os.listdir(tmp_path / "disk") == ["a"]


def test_deletion_of_a_file_that_another_process_deleted_is_no_error(tmp_path):
    missing = SimpleNamespace(
        type_name="local",
        get_file_info=lambda path: pyarrow.fs.FileInfo(path, type=pyarrow.fs.FileType.File),
        delete_file=pyarrow.fs.LocalFileSystem().delete_file,
    )
    Location(missing, str(tmp_path / "gone"), "gone").delete()
