"""Signals to ``mdssl probe``: during its work, and while its disk is full."""

import os
import signal
import subprocess
import sys
import time

import pytest
from factories import tiny_trial
from processes import wait_for

from mdssl.cli.main import main
from mdssl.config.run import RunSettings
from mdssl.leaderboard.board import read_rows
from mdssl.pretrain.loop import train, with_fingerprint
from mdssl.storage.location import Location

HANGS = """
import sys, time
from mdssl.evaluate import representations
from mdssl.sweep import standalone
def hang(*arguments, **named):
    print("at work", flush=True)
    time.sleep(1000)
score = standalone.score_dataset
def score_the_first(encoded, dataset, **named):
    return score(encoded, dataset, **named) if dataset.name == "tiny-a" else hang()
if {while_it_scores}:
    standalone.score_dataset = score_the_first
else:
    representations.write = hang
from mdssl.cli.main import main
sys.exit(main())
"""

FULL_DISK = """
import sys
from mdssl.storage import location
write = location._write_synced
def write_unless_full(path, data):
    if "leaderboard" in str(path):
        raise OSError(28, "No space left on device")
    write(path, data)
location._write_synced = write_unless_full
from mdssl.cli.main import main
sys.exit(main())
"""


@pytest.fixture
def trial(tiny_data, tmp_path):
    """The folder of a trained trial, and the arguments to probe it on two datasets."""
    config = with_fingerprint(tiny_trial(), tiny_data)
    folder = tmp_path / "results" / "trials" / config.trial_id
    train(config, data=tiny_data, trial_dir=folder, settings=RunSettings(track=()), device="cpu")
    words = ["probe", config.trial_id, "--evaluate", "tiny-a", "tiny-b", "--device", "cpu"]
    return folder, [*words, "--data", tiny_data, "--storage", str(tmp_path / "results")]


def terminate(program, words, when, folder):
    """Run a program, send SIGTERM when its output has ``when``, and return its output."""
    said = folder / "said.txt"
    process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=said.open("w"), stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: when in said.read_text() or process.poll() is not None, why=said.read_text)
        process.send_signal(signal.SIGTERM)
        signalled = time.monotonic()
        assert process.wait(60) == 128 + signal.SIGTERM, said.read_text()
        assert time.monotonic() - signalled < 20 * max(os.getloadavg()[0] / os.cpu_count(), 1)
    finally:
        process.kill()
        process.wait()
    assert said.read_text().splitlines()[-1] == "terminated; the same command resumes from what was saved."
    assert "Traceback" not in said.read_text()
    return said.read_text()


def scored(folder):
    return [row["eval_dataset"] for row in read_rows(Location.of(folder.parents[1]), folder.name)]


@pytest.mark.slow
@pytest.mark.parametrize("while_it_scores", [True, pytest.param(False, marks=pytest.mark.long)])
def test_after_sigterm_to_mdssl_probe_the_same_command_adds_missing_scores(trial, tmp_path, capsys, while_it_scores):
    folder, words = trial
    terminate(HANGS.format(while_it_scores=while_it_scores), words, "at work", tmp_path)
    assert scored(folder) == ["tiny-a"]
    assert not [name for name in os.listdir(folder) if name.startswith(("claim", "."))]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "tiny-a: scored already" in said and "tiny-b (encoder, lbfgs): top-1" in said
    assert sorted(scored(folder)) == ["tiny-a", "tiny-b"]


@pytest.mark.slow
def test_sigterm_ends_mdssl_probe_while_the_disk_is_full(trial, tmp_path):
    folder, words = trial
    terminate(FULL_DISK, words, "is unavailable", tmp_path)
    assert scored(folder) == []
    assert not [name for name in os.listdir(folder) if name.startswith(("claim", "."))]
