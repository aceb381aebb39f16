"""Run all or some benches, and write the output of each into a section of bench/RESULTS.md.

Sections of benches that are not run stay, with the commit and the machine of their run.

    python bench/all.py                       # half an hour to an hour on two cores
    python bench/all.py loss step
    python bench/all.py --device cuda         # benches that can use a GPU
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from harness import amount

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "RESULTS.md"
CPU = (
    "loss",
    "augment",
    "optimizer",
    "step",
    "small_maps",
    "host_images",
    "probe",
    "kmeans",
    "sweep",
    "leaderboard",
    "prepare",
    "search",
)
CUDA = ("loss", "augment", "optimizer", "step", "host_images", "probe", "kmeans")
FLAGS = {("step", "cuda"): ("--preset", "paper")}
VERSIONS = (
    "torch", "torchvision", "ray", "scikit-learn", "pandas", "pyarrow", "lightly", "kornia", "optuna", "syne-tune",
)  # fmt: skip
PEERS = ("lightly", "kornia", "pytorch-metric-learning", "faiss-cpu")

INTRODUCTION = """# Bench results

Written by `make bench` (`python bench/all.py`), section by section; each says where it was run. Times are medians of
alternating rounds, ratios medians of ratios within a round, and what is timed twice ("again") shows the noise. Extra
memory is that of a fresh process beyond what it held before.
"""

WITHOUT_A_GPU = """No bench has been run on a GPU yet. The command that does, the paper's step on ResNet-50 among them:
`python bench/all.py --device cuda`."""


def sections_of(text: str) -> dict[str, str]:
    """Sections of a results file by heading, such as ``loss, cpu``."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def page(sections: dict[str, str]) -> str:
    """The text of a results file: a table of all claims, then the sections."""
    rows = ["| bench | claim | ours | peer | peer's name | ratio |", "|---|---|---|---|---|---|"]
    for heading, section in sections.items():
        found = json.loads(re.search(r"^`(\{.*\})`$", section, flags=re.MULTILINE).group(1))
        ours, peer = (f"{amount(found[who])} {found['unit']}" for who in ("ours", "peer"))
        rows.append(f"| {heading} | {found['claim']} | {ours} | {peer} | {found['peer_name']} | {found['ratio']:.2f} |")
    body = [f"## {heading}\n\n{section}" for heading, section in sections.items()]
    begins = [INTRODUCTION.strip()] + ([] if any("cuda" in heading for heading in sections) else [WITHOUT_A_GPU])
    return "\n\n".join([*begins, "\n".join(rows), *body]) + "\n"


def section(name: str, command: list[str], printed: str, where: str, seconds: float) -> str:
    """A section from the output of a bench, whose last line is its claim."""
    *tables, claim = printed.strip().splitlines()
    json.loads(claim)
    docstring = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    said = docstring.splitlines()[0]
    return "\n\n".join(
        [said, f"`{' '.join(command)}`: {where}; took {seconds:.0f} s.", "\n".join(tables).strip(), f"`{claim}`"]
    )


def machine(device: str) -> str:
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {torch.get_num_threads()} threads"


def commit() -> str:
    """The commit of this checkout, with ``-dirty`` if files other than the results differ from it."""
    git = ["git", "-C", str(FOLDER)]
    found = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True)
    if found.returncode:
        return "unknown"
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no", "--", ":/", f":(exclude,top)bench/{RESULTS.name}"],
        capture_output=True,
        text=True,
    )
    return found.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def versions() -> str:
    found = []
    for name in VERSIONS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return f"Python {platform.python_version()}, " + ", ".join(found)


def run(command: list[str]) -> tuple[int, str]:
    """Run a command, show its output as it comes, and return its exit code and output."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=inspect.cleandoc(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # argparse checks the empty list if no name is given.
    parser.add_argument("names", nargs="*", choices=[*CPU, []], metavar="NAME", help=", ".join(CPU))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    flags = parser.parse_args()
    missing = [name for name in PEERS if not _installed(name)]
    if missing:
        print(f"not installed: {', '.join(missing)}; `make bench` does it, or `pip install --group bench`.")
        return 2
    unfit = sorted(set(flags.names) - set(CUDA)) if flags.device == "cuda" else []
    if unfit or (flags.device == "cuda" and not torch.cuda.is_available()):
        print(f"--device cuda: {', '.join(unfit) + ' runs on a CPU alone' if unfit else 'no GPU that PyTorch can use'}")
        return 2
    where = f"commit {commit()}, {machine(flags.device)}, {versions()}"
    failed = []
    for name in flags.names or (CUDA if flags.device == "cuda" else CPU):
        arguments = ["--device", flags.device, *FLAGS.get((name, flags.device), ())]
        print(f"\n=== {name}, {flags.device}", flush=True)
        started = time.perf_counter()
        code, printed = run([sys.executable, str(FOLDER / f"{name}.py"), *arguments])
        if code:
            failed.append(name)
            continue
        command = ["python", f"bench/{name}.py", *arguments]
        made = section(name, command, printed, where, time.perf_counter() - started)
        before = sections_of(RESULTS.read_text()) if RESULTS.exists() else {}
        temporary = RESULTS.with_suffix(".tmp")
        temporary.write_text(page(_in_order(before | {f"{name}, {flags.device}": made})))
        temporary.replace(RESULTS)
    if failed:
        print(f"\nfailed: {', '.join(failed)}; their sections are as they were")
    return 1 if failed else 0


def _in_order(sections: dict[str, str]) -> dict[str, str]:
    order = [f"{name}, {device}" for device in ("cuda", "cpu") for name in (*CPU, "gpu")]
    return {heading: sections[heading] for heading in order if heading in sections}


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
