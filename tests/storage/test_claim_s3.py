"""Claims of several processes on S3."""

import json
import subprocess
import sys

import pytest
from pyarrow.fs import FileSelector, FileType

from mdssl.storage.location import Location

pytestmark = pytest.mark.slow

RACER = """
import json, sys
from mdssl.storage.claim import Claim
from mdssl.storage.location import Location
folder, rounds = Location.of(sys.argv[1]), int(sys.argv[2])
folder.exists()
print("ready", flush=True)
won = []
for number in range(rounds):
    sys.stdin.readline()
    if Claim(folder / str(number)).take() is None:
        won.append(number)
    print("done", flush=True)
print(json.dumps(won), flush=True)
sys.stdin.readline()
"""

COUNTER = """
import random, sys, time
from mdssl.storage import claim
from mdssl.storage.retry import retrying
from mdssl.storage.location import Location
claim.POLL_SECONDS = 0.05
folder = Location.of(sys.argv[1])
for _ in range(int(sys.argv[2])):
    # As everywhere where claims are taken: a server that is busy may break an answer off.
    with retrying(), claim.Claim(folder / "trial") as mine:
        mine.wait()
        seen = int((folder / "count").read_bytes())
        time.sleep(random.uniform(0, 0.05))
        (folder / "count").write_bytes(str(seen + 1).encode())
"""


@pytest.fixture
def python(bucket):
    """A function that starts a Python process with access to the bucket."""
    running = []

    def start(code, *arguments):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def names(folder):
    place = Location.of(folder)
    found = place.filesystem.get_file_info(FileSelector(place.path, recursive=True, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == FileType.File)


@pytest.mark.parametrize("after", [pytest.param("nobody", marks=pytest.mark.long), "a dead owner"])
def test_exactly_one_of_several_processes_gets_the_claim(bucket, python, after):
    folder, rounds = f"{bucket}/claims", 8
    if after == "a dead owner":
        code = "import os, signal, sys; from mdssl.storage.claim import Claim; "
        code += "from mdssl.storage.location import Location; "
        code += f"f = Location.of(sys.argv[1]); [Claim(f / str(n)).take() for n in range({rounds})]; "
        code += "os.kill(os.getpid(), signal.SIGKILL)"
        python(code, folder).wait(60)
        assert len(names(folder)) == rounds
    racers = [python(RACER, folder, rounds) for _ in range(4)]
    assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 4
    for _ in range(rounds):
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        assert [racer.stdout.readline() for racer in racers] == ["done\n"] * 4
    won = [number for racer in racers for number in json.loads(racer.stdout.readline())]
    assert sorted(won) == list(range(rounds)), "each claim is won once"
    assert not [name for name in names(folder) if name.endswith(".bid")]


def test_claim_gives_mutual_exclusion(bucket, python):
    folder, times = f"{bucket}/counted", 5
    count = Location.of(folder) / "count"
    count.write_bytes(b"0")
    workers = [python(COUNTER, folder, times) for _ in range(4)]
    assert [worker.wait(200) for worker in workers] == [0] * 4
    assert int(count.read_bytes()) == times * 4
    assert names(folder) == ["count"]
