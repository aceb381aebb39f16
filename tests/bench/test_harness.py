"""Helpers of the benchmarks: the order of runs, the printed ratios, and the sections of a results file."""

import importlib
import json
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def harness(folder):
    return importlib.import_module("harness")


@pytest.fixture(scope="module")
def results(folder):
    return importlib.import_module("all")


def test_contenders_alternate_and_one_runs_twice(harness):
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in ("ours", "peer", "other")}
    seconds = harness.take_turns(contenders, rounds=2)
    assert calls == ["ours", "peer", "other", "peer"] * 3, "two rounds and a first round that is not counted"
    assert {name: len(values) for name, values in seconds.items()} == {
        "ours": 2,
        "peer": 2,
        "other": 2,
        "peer again": 2,
    }


def test_ratios_are_paired_by_round(harness):
    # The machine was half as fast in the last two rounds, for all contenders.
    seconds = {"ours": [1.0, 1.0, 2.0, 2.0], "peer": [3.0, 3.0, 6.0, 6.0]}
    assert harness.paired_ratio(seconds, "peer", to="ours") == 3.0


def test_last_line_of_a_report_is_the_claim(harness, capsys):
    report = harness.Report("views/s", peer="somebody's")
    seconds = {"ours": [0.5], "peer": [2.0], "peer again": [2.0]}
    report.timings("A step", seconds, work=10, extra={"memory": {"ours": "1 MiB"}})
    report.claim_from("a step", seconds, "ours", "peer", 10)
    printed = capsys.readouterr().out.splitlines()
    assert "| peer | 2 s | 5 | 4.00 |  |" in printed
    assert json.loads(printed[-1]) == {
        "claim": "a step",
        "ours": 20.0,
        "peer": 5.0,
        "peer_name": "somebody's",
        "ratio": 4.0,
        "unit": "views/s",
    }


def takes(mib):
    """Is at module level so that the new process can import it."""
    torch.ones(2**18).sum()
    return lambda: torch.ones(mib * 2**18).sum()


@pytest.mark.process
def test_extra_memory_is_that_of_a_call_in_a_new_process(harness):
    assert harness.extra_memory(takes, 256) == pytest.approx(256, abs=16)


def test_contenders_that_disagree_are_refused(harness):
    harness.assert_close("sums", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0 + 1e-7]), 1e-6)
    with pytest.raises(AssertionError, match="sums: contenders disagree"):
        harness.assert_close("sums", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.1]), 1e-6)


def test_a_results_file_keeps_the_sections_that_are_not_run_again(results):
    claim = {"claim": "c", "ours": 2.0, "peer": 1.0, "peer_name": "p", "ratio": 2.0, "unit": "u"}
    printed = "\nA table\n\n| a |\n| --- |\n| 1 |\n\n" + json.dumps(claim)
    sections = {
        "loss, cpu": results.section("loss", ["python", "bench/loss.py"], printed, "commit 1", 3.2),
        "step, cpu": results.section("step", ["python", "bench/step.py"], printed, "commit 1", 5.0),
    }
    text = results.page(sections)
    assert results.sections_of(text) == sections
    newer = results.section("step", ["python", "bench/step.py"], printed, "commit 2", 5.0)
    again = results.page(results.sections_of(text) | {"step, cpu": newer})
    assert "commit 1" in results.sections_of(again)["loss, cpu"]
    assert "commit 2" in results.sections_of(again)["step, cpu"]
    assert "| loss, cpu | c | 2 u | 1 u | p | 2.00 |" in again


def test_every_bench_is_listed_in_all(results):
    helpers = {"all", "harness", "replay", "counting", "growth", "training_steps"}
    files = {path.stem for path in BENCH.glob("*.py")} - helpers
    # bench/gpu.py is a separate command for a machine with a GPU.
    files = {name for name in files if not name.startswith("gpu")}
    assert files == set(results.CPU)
    assert set(results.CUDA) <= files
