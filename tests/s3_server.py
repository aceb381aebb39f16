"""A local S3 server by moto in its own process, which other processes can access.

`Gate` is a proxy that adds faults between the server and its clients.
"""

import contextlib
import http.client
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def running(**settings: str):
    """Run a server with additional environment variables; gives the environment variables for its clients."""
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
    """Make a bucket, and return its URI."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(f"{environment['AWS_ENDPOINT_URL']}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=60)
    return f"s3://{name}"


def sync(folder: str | Path, uri: str) -> None:
    """Copy the files in ``folder`` to ``uri``, as ``aws s3 sync`` does."""
    from mdssl.storage.location import Location

    for path in Path(folder).rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            place = Location.of(uri)
            for part in path.relative_to(folder).parts:
                place /= part
            place.write_bytes(path.read_bytes())


class Gate:
    """A proxy in front of a server that forwards requests, or refuses them as ``refuses`` decides.

    Attributes:
        environment: environment variables for clients of this proxy.
        refuses: decides by method and path whether a request is refused with 503 SlowDown.
        cuts: decides by method and path whether a response is truncated to its first half.
        refused: number of refused requests.
    """

    def __init__(self, environment: dict[str, str]):
        self.behind = environment["AWS_ENDPOINT_URL"].removeprefix("http://")
        self.refuses = self.cuts = nothing
        self.refused = 0
        self.server = None
        self.port = 0
        self.come_back()
        self.environment = environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def go_away(self) -> None:
        """Refuse every connection from now on."""
        self.server.shutdown()
        self.server.server_close()

    def come_back(self) -> None:
        handler = type("Handler", (_Handler,), {"gate": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


def nothing(method: str, path: str) -> bool:
    return False


def writes(method: str, path: str) -> bool:
    return method in ("PUT", "POST", "DELETE")


def lists(method: str, path: str) -> bool:
    return method == "GET" and "list-type=2" in path


def everything(method: str, path: str) -> bool:
    return True


class _Handler(http.server.BaseHTTPRequestHandler):
    gate: Gate
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        body = self._body()
        if self.gate.refuses(self.command, self.path):
            self.gate.refused += 1
            said = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            self._answer(503, {"Content-Type": "application/xml", "Content-Length": str(len(said))}, said)
            return
        behind = http.client.HTTPConnection(self.gate.behind, timeout=120)
        with contextlib.closing(behind):
            left = ("expect", "transfer-encoding")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in left}
            behind.request(self.command, self.path, body, headers)
            answer = behind.getresponse()
            said = answer.read()
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding")}
            if self.gate.cuts(self.command, self.path):
                said = said[: len(said) // 2]
            self._answer(answer.status, headers, said)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status, headers, said):
        # One request for each connection: after `go_away`, no open connection may still get responses.
        self.close_connection = True
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(said)

    def log_message(self, *words):
        pass
