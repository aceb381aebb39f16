"""All checks and timings of one GPU, in one command of at most nine minutes, without a network.

Checks: loss, views and gradients against float64 on the CPU, a stop and its resumption, no waits for the GPU. Timings:
the paper's step, a step of ResNet-18 on CIFAR, a small step, views, probes and clustering; with launches, bytes and
operations beside the limits of the device, compiled, and with CUDA graphs. Table 1: the encoders of the paper's table 1
at the scale that fits. Each part has a time limit; what does not fit is skipped, and the results say so. After each
part, gpu.json and gpu.md have all results so far.

    python bench/gpu.py --data DATA --out OUT                  # on a machine with a GPU
    python bench/gpu.py --device cpu --tiny --out OUT          # a rehearsal that takes seconds
    python bench/gpu.py --data DATA --out OUT --ray            # also a sweep of λ1 × λ2 with Ray, on the GPUs

The command needs torch, torchvision, safetensors, scikit-learn, pyarrow and Pillow; for --ray also the packages in
bench/gpu-wheels.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import inspect
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # mdssl need not be installed
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import gpu_checks  # noqa: E402
import gpu_table1  # noqa: E402
import gpu_times  # noqa: E402
import torch  # noqa: E402
from all import commit, machine, versions  # noqa: E402
from harness import amount  # noqa: E402

from mdssl.config.presets import DATA  # noqa: E402
from mdssl.device import pick_device  # noqa: E402


class OutOfTimeError(BaseException):
    """A part has exceeded its time limit. It is not an Exception, so that no handler in the part catches it."""


@dataclass
class Run:
    """Settings of a part.

    Attributes:
        device: cpu or cuda.
        tiny: whether this is a rehearsal with the smallest sizes.
        data: folder of prepared datasets.
        folder: for the part's own files.
        until: the end of its time, by `time.monotonic`.
    """

    device: str
    tiny: bool
    data: Path
    folder: Path
    until: float = 0.0

    def left(self) -> float:
        """Seconds until the end of its time."""
        return self.until - time.monotonic()


def ray_sweep(run: Run, found: dict) -> None:
    """A sweep of λ1 × λ2 with Ray."""
    missing = [name for name in ("ray", "tyro", "opendal") if importlib.util.find_spec(name) is None]
    if missing:
        found["skipped"] = f"{', '.join(missing)} missing: see bench/gpu-wheels.txt"
        return
    flags = ["--lambda1", "1", "--lambda2", "0", "0.1", "--data", str(run.folder / "data")]
    flags += ["--storage", str(run.folder / "results"), "--gpus-per-worker", str(int(run.device == "cuda"))]
    flags += ["--iterations", "4", "--batch-per-domain", "16", "--lr-warmup-iterations", "1"] if run.tiny else []
    started = time.monotonic()
    command = [sys.executable, str(ROOT / "sweeps" / "lambda_grid.py"), *flags]
    own = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    with subprocess.Popen(command, text=True, **own) as sweep:
        try:
            printed, _ = sweep.communicate(timeout=max(1.0, run.left() - 45))
        except subprocess.TimeoutExpired:
            # On SIGTERM the sweep also ends its Ray, in up to 20 s; SIGKILL would leave processes of Ray running.
            sweep.terminate()
            printed, _ = sweep.communicate()
            found["skipped"] = "the rest: its time is over"
    found["passed"] = sweep.returncode == 0 if "skipped" not in found else None
    found["seconds"] = time.monotonic() - started
    found["printed last"] = printed[-3000:]


PARTS: dict[str, tuple[Callable[[Any, dict], None], float]] = {
    "checks": (gpu_checks.checks, 50),
    "limits": (gpu_times.limits, 10),
    "paper_step": (gpu_times.paper_step, 110),
    "cifar_step": (gpu_times.cifar_step, 60),
    "small_step": (gpu_times.small_step, 35),
    "views": (gpu_times.views, 15),
    "probe": (gpu_times.probe, 25),
    "clustering": (gpu_times.clustering, 15),
    "table1": (gpu_table1.table1, 215),
    "ray": (ray_sweep, 150),
}
"""The function of each part, and the seconds that earlier parts reserve for it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTimeError` in the context after ``seconds``."""

    def out_of_time(number: int, frame: FrameType | None) -> NoReturn:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, out_of_time)
    rest, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    started = time.monotonic()
    try:
        yield
    finally:
        # The caller may have its own timer.
        signal.setitimer(signal.ITIMER_REAL, max(rest - (time.monotonic() - started), 0.01) if rest else 0)
        signal.signal(signal.SIGALRM, before)


def run_part(name: str, run: Run, found: dict[str, Any]) -> None:
    """Run one part; ``found`` keeps its results from before an error or the end of its time."""
    part, started = PARTS[name][0], time.monotonic()
    try:
        with time_limit(run.left()):
            part(run, found)
    except OutOfTimeError:
        found["skipped"] = f"the rest: its {time.monotonic() - started:.0f} s are over"
    except Exception as error:
        traceback.print_exc()
        found["error"] = f"{type(error).__name__}: {error}"
        found["passed"] = False
    if run.device == "cuda":
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
    found["part, s"] = time.monotonic() - started


def has_failed(found: dict[str, Any]) -> bool:
    parts = [found, *(value for value in found.values() if isinstance(value, dict))]
    return any(part.get("passed") is False for part in parts)


def as_markdown(heading: str, where: str, results: dict[str, dict]) -> str:
    """A section of bench/RESULTS.md."""
    lines = [f"## {heading}", "", where]
    for name, found in results.items():
        flat = {label: value for label, value in found.items() if not isinstance(value, dict)}
        rows = {label: value for label, value in found.items() if isinstance(value, dict)}
        lines += ["", f"{inspect.getdoc(PARTS[name][0])}", ""]
        if rows:
            columns = list(dict.fromkeys(column for row in rows.values() for column in row))
            lines += _table(["", *columns], [[label, *(row.get(c) for c in columns)] for label, row in rows.items()])
            lines.append("")
        lines += _table(["", ""], [[label, value] for label, value in flat.items()])
    if (step := results.get("paper_step", {})) and "floor, ms" in step:
        most = 1e3 * step["views in a step"] / step["floor, ms"]
        ours = step.get("views/s, compiled", step["views/s"])
        claim = {"claim": "the paper's training step", "ours": ours, "peer": most, "ratio": ours / most}
        claim |= {"peer_name": "the limit that bytes and operations set", "unit": "views/s"}
        lines += ["", f"`{json.dumps(claim, ensure_ascii=False)}`"]
    return "\n".join(lines) + "\n"


def _table(header: list[str], rows: list[list]) -> list[str]:
    return ["| " + " | ".join(map(_cell, line)) + " |" for line in (header, ["---"] * len(header), *rows)]


def _cell(value: object) -> str:
    if value is None or isinstance(value, bool | str):
        return {None: "", True: "yes", False: "**no**"}.get(value, str(value).replace("\n", " ").replace("|", "/"))
    return "0" if value == 0 else amount(value) if abs(value) >= 0.01 else f"{value:.1e}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, whose times say nothing")
    parser.add_argument("--data", type=Path, default=Path(DATA), help="folder of prepared datasets (default: data)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for gpu.json and gpu.md (default: here)")
    parser.add_argument("--minutes", type=float, default=9, help="for all parts together (default: 9)")
    parser.add_argument("--ray", action="store_true", help="also one sweep by Ray, where it is installed")
    # argparse checks the empty list if no name is given.
    choices = [*PARTS, []]
    parser.add_argument("parts", nargs="*", choices=choices, metavar="PART", help=f"only these of {', '.join(PARTS)}")
    flags = parser.parse_args(argv)
    began = time.monotonic()
    if flags.device == "cuda" and not torch.cuda.is_available():
        print("no GPU that PyTorch can use; --device cpu --tiny rehearses without one", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    flags.out.mkdir(parents=True, exist_ok=True)
    pick_device(flags.device)
    names = flags.parts or [name for name in PARTS if name != "ray" or flags.ray]
    where = f"commit {commit()}, {machine(flags.device)}, {versions()}"
    results: dict[str, dict] = {}
    for number, name in enumerate(names):
        later = sum(PARTS[each][1] for each in names[number + 1 :])
        left = 60 * flags.minutes - (time.monotonic() - began)
        # If the time is too short for all parts, it is divided in proportion.
        seconds = max(left - later, left * PARTS[name][1] / (PARTS[name][1] + later))
        print(f"\n=== {name}: at most {seconds:.0f} s", flush=True)
        results[name] = {}
        with tempfile.TemporaryDirectory() as folder:
            run = Run(flags.device, flags.tiny, flags.data, Path(folder), time.monotonic() + seconds)
            run_part(name, run, results[name])
        command = " ".join(["python bench/gpu.py", *(sys.argv[1:] if argv is None else argv)])
        said = f"`{command}`: {where}; took {time.monotonic() - began:.0f} s."
        text = as_markdown(f"gpu, {flags.device}", said, results)
        _write(flags.out / "gpu.json", json.dumps({"where": where, "command": command, **results}, indent=2))
        _write(flags.out / "gpu.md", text)
    print(f"\n{text}")
    failed = [name for name, found in results.items() if has_failed(found)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _write(file: Path, text: str) -> None:
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(file)


if __name__ == "__main__":
    sys.exit(main())
