"""Downloads from servers that drop connections, ignore ranges or send wrong content, and unpacking of bad archives."""

import dataclasses
import errno
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile

import numpy as np
import pytest
import scipy.io

from mdssl.data.prepare import prepare
from mdssl.data.sources import catalog
from mdssl.data.sources import download as download_module
from mdssl.data.sources.download import download, unpack

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serve ``files`` by path; send at most ``breaks_after`` bytes per request, or all if it is None."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/file": CONTENT}
        self.breaks_after = None
        self.knows_ranges = True
        self.ranges = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if self.server.knows_ranges else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if self.server.knows_ranges else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = None if self.server.breaks_after is None else start + self.server.breaks_after
        self.wfile.write(content[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(download_module.time, "sleep", lambda seconds: None)


def test_a_file_is_downloaded_completely(server, tmp_path):
    seen = []
    download(f"{server.url}/file", tmp_path / "file", MD5, progress=lambda have, total: seen.append((have, total)))
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_dropped_connection_is_resumed_at_the_next_byte(server, tmp_path):
    server.breaks_after = 100_001
    download(f"{server.url}/file", tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == ["bytes=0-", "bytes=100001-", "bytes=200002-"]


def test_a_later_run_resumes_from_the_part_file(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:250_000])
    download(f"{server.url}/file", tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == ["bytes=250000-"]


def test_a_complete_part_file_is_not_downloaded_again(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    download(f"{server.url}/file", tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_download_starts_over_if_the_server_ignores_ranges(server, tmp_path):
    server.knows_ranges = False
    (tmp_path / "file.part").write_bytes(b"something else")
    download(f"{server.url}/file", tmp_path / "file", MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_file_with_a_wrong_md5_is_deleted(server, tmp_path):
    with pytest.raises(ValueError, match=f"MD5 {MD5} instead of 0123"):
        download(f"{server.url}/file", tmp_path / "file", "0123")
    assert list(tmp_path.iterdir()) == []


def test_a_stalled_download_fails_and_keeps_its_part_file(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    server.breaks_after = 0
    with pytest.raises(ValueError, match=r"cannot be downloaded: the connection ended after 1000 of 300000 bytes"):
        download(f"{server.url}/file", tmp_path / "file", MD5)
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("url", ["{server}/nowhere", "http://127.0.0.1:1/file"])
def test_message_for_an_unreachable_file_says_where_to_put_it(server, tmp_path, url):
    url = url.format(server=server.url)
    with pytest.raises(ValueError) as caught:
        download(url, tmp_path / "file", MD5)
    for piece in (url, "cannot be downloaded", f"put the file into {tmp_path} as file by hand"):
        assert piece in str(caught.value)


def test_prepare_downloads_files_on_request(server, tmp_path, rng, monkeypatch, miniature):
    remotes = []
    for split in ("train", "test"):
        buffer = io.BytesIO()
        images = rng.integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
        scipy.io.savemat(buffer, {"X": images, "y": np.arange(20)[:, None] % 10 + 1})
        server.files[f"/{split}"] = buffer.getvalue()
        md5 = hashlib.md5(buffer.getvalue()).hexdigest()
        remotes.append(catalog.Remote(f"{server.url}/{split}", f"{split}_32x32.mat", md5))
    published = catalog.CATALOG["svhn"].published
    local = dataclasses.replace(published, remotes=tuple(remotes))
    monkeypatch.setitem(catalog.CATALOG, "svhn", catalog.CatalogEntry("digits", "official", local))
    svhn = prepare("svhn", data=tmp_path, download=True, progress=False)
    assert svhn.counts == {"train": 20, "test": 20}
    assert sorted(path.name for path in (tmp_path / "downloads/svhn").iterdir()) == [
        "test_32x32.mat",
        "train_32x32.mat",
    ]


def write_tar(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                tar.addfile(info)


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_unpack_extracts_only_the_requested_members(tmp_path, write):
    archive = tmp_path / ("a.zip" if write is write_zip else "a.tar.gz")
    write(archive, {"top/wanted/a": b"1", "top/wanted/b": b"2", "top/wanted_not": b"3", "huge": b"4"})
    unpack(archive, tmp_path / "out", ["top/wanted"])
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"top/wanted/a", "top/wanted/b"}


@pytest.mark.parametrize(
    ("write", "members"),
    [
        (write_tar, {"top/a": b"", "../evil": b""}),
        (write_tar, {"/evil": b""}),
        (write_tar, {"top/a/../../../evil": b""}),
        (write_tar, {"top/link": (tarfile.SYMTYPE, "/etc")}),
        (write_tar, {"top/link": (tarfile.SYMTYPE, "../../evil")}),
        (write_tar, {"top/link": (tarfile.LNKTYPE, "../evil")}),
        (write_zip, {"top/a": b"", "../evil": b""}),
        (write_zip, {"/evil": b""}),
    ],
)
def test_archive_members_outside_the_folder_are_refused(tmp_path, write, members):
    archive = tmp_path / ("a.zip" if write is write_zip else "a.tar.gz")
    write(archive, members)
    with pytest.raises(ValueError, match="points outside the folder"):
        unpack(archive, tmp_path / "out", ["top", "evil", "..", "/"])
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("write", [write_tar, write_zip])
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_archive_is_named_and_leaves_no_files(tmp_path, write, kept):
    archive = tmp_path / ("a.zip" if write is write_zip else "a.tar.gz")
    write(archive, {"top/a": CONTENT, "top/b": CONTENT})
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * kept)])
    with pytest.raises(ValueError, match=f"(?s)archive {archive} cannot be unpacked.*Remove and fetch it again"):
        unpack(archive, tmp_path / "out", ["top"])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_does_not_suggest_to_remove_the_archive(tmp_path, monkeypatch):
    archive = tmp_path / "a.tar.gz"
    write_tar(archive, {"top/a": CONTENT})
    full = OSError(errno.ENOSPC, "disk full")
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(ValueError, match=r"cannot be unpacked: .*disk full.* Check the space and the permissions of "):
        unpack(archive, tmp_path / "out", ["top"])
