import subprocess
import sys

import pytest

ANOTHER = """
import ray, sys
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20)
print("runs", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def another_ray():
    """A Ray that idles on this machine."""
    command = [sys.executable, "-c", ANOTHER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert any("runs" in line for line in process.stdout)
        yield
        process.stdin.close()
