"""moto's imitation of S3 on this machine, as a process of its own, which other processes can reach."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def running(**settings: str):
    """A server with these environment variables besides; the environment of those who use it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | settings)
    try:
        deadline = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        yield KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    finally:
        server.terminate()
        server.wait()


def new_bucket(environment: dict[str, str]) -> str:
    """Make a bucket; its URI."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(f"{environment['AWS_ENDPOINT_URL']}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=60)
    return f"s3://{name}"


def sync(folder: str | Path, uri: str) -> None:
    """Copy the files in ``folder`` to ``uri``, as ``aws s3 sync`` does."""
    from mdssl.storage import Location

    for path in Path(folder).rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            place = Location.of(uri)
            for part in path.relative_to(folder).parts:
                place /= part
            place.write_bytes(path.read_bytes())
