"""bench/gpu.py: a tiny run on the CPU, and parts that fail or take too long."""

import builtins
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"
NOT_THERE = {"ray", "tyro", "opendal", "tensorboardX", "lightly", "kornia", "faiss", "matplotlib", "jinja2"}
"""Packages that a machine with a GPU need not have."""


@pytest.fixture(scope="module")
def gpu(folder):
    return importlib.import_module("gpu")


def test_tiny_run_on_a_cpu_runs_every_part(gpu, tiny_data, tmp_path, monkeypatch, capsys):
    imports = builtins.__import__

    def blocked(name, *arguments, **named):
        if name.partition(".")[0] in NOT_THERE:
            raise ModuleNotFoundError(f"{name} is not on this machine")
        return imports(name, *arguments, **named)

    # Three of the datasets of table 1.
    data = tmp_path / "data"
    data.mkdir()
    for name, tiny in (("cifar10", "tiny-a"), ("svhn", "tiny-b"), ("stl10", "tiny-c")):
        (data / name).symlink_to(f"{tiny_data}/{tiny}")
    monkeypatch.setattr(builtins, "__import__", blocked)
    argv = ["--device", "cpu", "--tiny", "--data", str(data), "--out", str(tmp_path / "out")]
    assert gpu.main(argv) == 0
    made = json.loads((tmp_path / "out" / "gpu.json").read_text())
    parts = [name for name in gpu.PARTS if name != "ray"]
    assert [name for name in made if name in gpu.PARTS] == parts
    assert not [name for name in parts if "skipped" in made[name] or "error" in made[name]]
    assert made["checks"]["weights after a stop and a resumption"]["difference"] == 0.0
    assert made["checks"]["steps that wait for the GPU, by set_sync_debug_mode"] == {"why not": "needs a GPU"}
    assert made["table1"]["not prepared"] == "cifar100"
    # Rows of the paper's six whose domain is prepared, two rows of the union of prepared domains, and a random encoder.
    rows = {name: row for name, row in made["table1"].items() if isinstance(row, dict)}
    assert list(rows) == [
        "simclr cifar10", "simclr stl10", "simclr svhn", "simclr cifar10+stl10+svhn",
        "mdssl cifar10+stl10+svhn λ1=1 λ2=0.1", "random encoder",
    ]  # fmt: skip
    for row in rows.values():
        assert row["average"] == pytest.approx(sum(row[name] for name in ("cifar10", "svhn", "stl10")) / 3)
    section = (tmp_path / "out" / "gpu.md").read_text()
    assert section.startswith("## gpu, cpu\n")
    results = importlib.import_module("all")
    assert results.sections_of(results.page(results.sections_of(section))) == results.sections_of(section)
    assert "**no**" not in section


@pytest.mark.process
def test_gpu_bench_needs_no_optional_packages():
    """Only imports bench/gpu.py, in a process without these packages and without mdssl on its path."""
    code = f"import sys; sys.modules |= dict.fromkeys({sorted(NOT_THERE)}); sys.argv = ['gpu.py']; import gpu"
    subprocess.run([sys.executable, "-c", code], cwd=BENCH, check=True)


def part_that(act):
    def part(run, found):
        """A part."""
        found["first"] = 1.0
        act()
        found["second"] = 2.0

    return part


def fail():
    raise ValueError("no such kernel")


def test_other_parts_run_after_a_failed_part(gpu, tmp_path, monkeypatch, capsys):
    parts = {"fails": fail, "slow": lambda: time.sleep(30), "last": lambda: None}
    monkeypatch.setattr(gpu, "PARTS", {name: (part_that(act), 0.2) for name, act in parts.items()})
    began = time.monotonic()
    assert gpu.main(["--device", "cpu", "--out", str(tmp_path), "--minutes", "0.01"]) == 1
    assert time.monotonic() - began < 10
    made = json.loads((tmp_path / "gpu.json").read_text())
    assert made["fails"]["error"] == "ValueError: no such kernel"
    assert made["fails"]["first"] == 1.0
    assert "second" not in made["fails"] | made["slow"]
    assert made["slow"]["skipped"].startswith("the rest: its ")
    assert made["last"]["second"] == 2.0
    assert capsys.readouterr().err.endswith("failed: fails\n")


def test_message_without_a_gpu_names_the_flags_of_a_tiny_run(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "--device cpu --tiny" in capsys.readouterr().err


def test_count_sums_operations_launches_and_bytes(folder):
    counting = importlib.import_module("counting")
    layer = torch.nn.Linear(4, 8, bias=False)
    x = torch.ones(2, 4)
    counts = counting.count(lambda: layer(x).relu_())
    # A matrix product of 2×4 and 4×8 and a ReLU in place, with inputs and outputs in float32.
    assert counts.operations == 2 * 2 * 4 * 8
    assert counts.launches == 2
    assert counts.bytes == 4 * ((2 * 4 + 4 * 8 + 2 * 8) + 2 * (2 * 8))


def test_floor_counts_layers_once_and_ignores_tensors_that_fit_into_the_cache(folder):
    counting = importlib.import_module("counting")
    conv = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1, bias=False), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1))
    views = torch.ones(2, 3, 4, 4)
    read, between, written, weights = 10 * 3 * 16, 10 * 8 * 16, 10 * 2 * 16, 3 * 8 + 8 * 2 + 2
    # The first layer has no gradient for its input. The floor is that of ten views of two-byte numbers.
    moved = 2 * (2 * read + 2 * between + 3 * between + 2 * written)
    assert counting.floor_of(conv, views, 10, item=2, cache=0) == moved + 5 * 4 * weights
    assert counting.floor_of(conv, views, 10, item=2, cache=2 * read) == 2 * (2 * between + 3 * between)
    limits = counting.Limits(bandwidth=100.0, speed=10.0, cache=0)
    assert counting.floor_seconds(counting.Counts(0, 0, 50), 200, limits) == 5.0
    assert counting.floor_seconds(counting.Counts(0, 0, 10), 200, limits) == 2.0
