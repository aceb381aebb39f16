"""``clusters/spot-notice.sh`` with a mock of the metadata server of AWS and a mock of ``ray`` that records its call."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "clusters" / "spot-notice.sh"


class Metadata(BaseHTTPRequestHandler):
    """IMDSv2 of an instance: a token for each request, and from the second request with the token on, a notice."""

    asked = 0

    def do_PUT(self):
        is_right = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(200 if is_right else 400, b"the-token")

    def do_GET(self):
        if self.path != "/latest/meta-data/spot/instance-action":
            return self.answer(404, b"")
        if self.headers["X-aws-ec2-metadata-token"] != "the-token":
            return self.answer(401, b"")
        type(self).asked += 1
        return self.answer(404 if self.asked == 1 else 200, b'{"action": "terminate", "time": "2026-01-01T00:00:00Z"}')

    def answer(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def metadata():
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_node_is_drained_after_a_spot_notice(metadata, tmp_path):
    for name, line in {"ray": f'echo "$@" > {tmp_path}/told', "sleep": f"echo waited >> {tmp_path}/waited"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"METADATA": metadata, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([SCRIPT, "10.0.0.1:6379"], env=environment, timeout=60, check=True)
    assert (tmp_path / "waited").read_text() == "waited\n", "the script waits while there is no notice"
    told = (tmp_path / "told").read_text()
    assert told.startswith("drain-node --address=10.0.0.1:6379 --reason=DRAIN_NODE_REASON_PREEMPTION ")
    assert "--deadline-remaining-seconds=110" in told


def test_ray_has_the_drain_node_command():
    ray = Path(sys.executable).with_name("ray")
    said = subprocess.run([ray, "drain-node", "--help"], capture_output=True, text=True, check=True).stdout
    for option in ("--address", "--reason", "--reason-message", "--deadline-remaining-seconds"):
        assert option in said
    assert "default to current node" in " ".join(said.split())
