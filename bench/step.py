"""A whole training step takes about half of the usual recipe's time in fp32, and a third in bf16 where a CPU has it.

A step has images, two views of each, encoder, loss, backward pass and optimizer. The usual recipe is a DataLoader whose
workers transform image by image with torchvision, torchvision's ResNet, lightly's NT-Xent and LARS. By default, ours is
bf16 and channels-last if the hardware has bf16. The usual recipe also runs with both, and ours also without bf16, so
that the comparison has equal terms. First both take one step in float64 from the same weights with the same views, and
must reach the same weights. Then the time of each part, and its growth with the number of domains, are measured.

    python bench/step.py                                  # ResNet-18, 2 domains × 128 images × 2 views
    python bench/step.py --device cuda --preset paper     # ResNet-50, 4 domains × 1,024 images × 2 views
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from counting import count, floor_of, floor_seconds, limits_of
from harness import (
    Report,
    amount,
    arguments,
    assert_close,
    duration,
    extra_memory,
    paired_ratio,
    take_turns,
    timed,
)
from training_steps import IMAGES, PRESETS, STEPS, Ours, UsualRecipe, config_of

from mdssl.config.trial import TrialConfig
from mdssl.pretrain.step import autocast, backward_at_once, loss_of

PAPER_STEPS, PAPER_HOURS = 48_000, 34.95


def check_agreement(config: TrialConfig, device: str) -> None:
    config = replace(config, precision="fp32")
    ours, peer = Ours(config, device), UsualRecipe(config, device)
    # In float64, because a step from random weights amplifies rounding errors of float32 to 1 % of some gradients.
    ours.model.double(), peer.model.double()
    weights = {name.removeprefix("encoder."): value for name, value in ours.model.state_dict().items()}
    peer.model.load_state_dict({name.replace("projection.", "fc."): value for name, value in weights.items()})
    views = ours.views().double()
    backward_at_once(config, ours.model, views, [ours.counts])
    ours.optimizer.step()
    peer.step(*views.chunk(2))
    theirs = dict(peer.model.named_parameters())
    for name, got in ours.model.named_parameters():
        name = name.removeprefix("encoder.").replace("projection.", "fc.")
        assert_close(name, got, theirs[name], 1e-9)


def parts_of_a_step(step: Ours, rounds: int, device: str) -> dict[str, float]:
    """Median seconds of each part of a step."""
    config, model, seconds = step.config, step.model, {}

    @contextmanager
    def part(name: str) -> Iterator[None]:
        if device == "cuda":
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            yield
            events[1].record()
            torch.cuda.synchronize()
            elapsed = events[0].elapsed_time(events[1]) / 1e3
        else:
            started = time.perf_counter()
            yield
            elapsed = time.perf_counter() - started
        seconds.setdefault(name, []).append(elapsed)

    for _ in range(rounds):
        with part("images and views"):
            views = step.views()
        step.optimizer.zero_grad(set_to_none=True)
        with part("encoder, forward"), autocast(config, views):
            z = model(views)
        with part("loss, forward"):
            loss = loss_of(config, z, [step.counts]).total
        with part("loss, backward"):
            (gradient,) = torch.autograd.grad(loss, z)
        with part("encoder, backward"):
            z.backward(gradient)
        with part("optimizer"):
            step.optimizer.step()
        step.number += 1
    return {name: statistics.median(values) for name, values in seconds.items()}


def report_counts(report: Report, step: Ours, device: str, seconds: float) -> None:
    """Print launches, bytes and operations of a step beside the limits of the device and the floor of any such step."""
    counts = count(step)
    is_bf16 = step.config.precision == "bf16"
    limits = limits_of(device, torch.bfloat16 if is_bf16 else torch.float32)
    item, few = (2 if is_bf16 else 4), step.views()[:32]
    with torch.autocast(device, dtype=torch.bfloat16, enabled=is_bf16):
        floor = floor_of(step.model, few, 2 * sum(step.counts), item=item, cache=limits.cache)
    least = floor_seconds(counts, floor, limits)
    rows = [
        ["launches", f"{counts.launches:,}", ""],
        ["GB moved", amount(counts.bytes / 1e9), f"{counts.bytes / seconds / limits.bandwidth:.0%} of the bandwidth"],
        ["TFLOP", amount(counts.operations / 1e12), f"{counts.operations / seconds / limits.speed:.0%} of the speed"],
        ["GB that any step moves", amount(floor / 1e9), f"caches of {limits.cache / 1e6:.0f} MB left out"],
        ["floor", duration(least), f"{least / seconds:.0%} of the step's {duration(seconds)}"],
    ]
    most = f"{limits.bandwidth / 1e9:,.0f} GB/s (copies) and {limits.speed / 1e12:.3g} TFLOP/s (products of matrices)"
    report.table(f"A step's launches, bytes and operations, at {most}", ["", "", ""], rows)


def steps_without_waiting(step: Ours, count: int = 20) -> None:
    """Raise an error if the host waits for the GPU within a step."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(count):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def prepare(name: str, config: TrialConfig, device: str) -> Callable[[], object]:
    """A turn for a memory measurement, after a turn with a small batch."""
    made = {"ours": Ours, "usual recipe": UsualRecipe}[name]
    made(replace(config, batch_per_domain=8), device).turn()
    return made(config, device).turn


def prepare_whole(config: TrialConfig, device: str) -> Callable[[], object]:
    """A function for a memory measurement that makes the images and the model, and takes a step."""
    return lambda: Ours(config, device)()


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(rounds=3)
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--seconds", type=float, default=60, help="length of the long run at the end; CUDA only")
    flags = parser.parse_args()
    config, device = config_of(flags.preset), flags.device
    views = 2 * config.batch_per_domain * len(config.domains)
    report = Report("views/s", peer="DataLoader, torchvision transforms and ResNet, lightly NT-Xent and LARS")
    check_agreement(config_of(flags.preset, batch=64), device)

    ours, compiled = Ours(config, device), Ours(config, device, compiled=True)
    contenders: dict[str, Callable[[], None]] = {
        f"ours, {config.precision}": ours.turn,
        "usual recipe, fp32": UsualRecipe(config, device).turn,
        "usual recipe, bf16, channels-last": UsualRecipe(
            replace(config, precision="bf16"), device, like_ours=True
        ).turn,
        "ours, fp32": Ours(replace(config, precision="fp32"), device).turn,
        "ours, compiled": compiled.turn,
    }
    compiling = timed(compiled, device)
    seconds = take_turns(contenders, rounds=flags.rounds, device=device)
    seconds = {name: [each / STEPS for each in values] for name, values in seconds.items()}
    names = list(contenders)
    memory = {
        name: f"{extra_memory(prepare, name.split(',')[0], config, device, device=device):,.0f} MiB"
        for name in names[:2]
    }
    title = f"A step of {views:,} views, {config.arch}, {len(config.domains)} domains"
    report.timings(title, seconds, work=views, extra={"extra memory": memory})
    equal = paired_ratio(seconds, names[2], to=names[0]), paired_ratio(seconds, names[1], to=names[3])
    report.note(
        f"At equal precision: {equal[0]:.2f} times as fast in bf16, {equal[1]:.2f} times in fp32. "
        f"The first compiled step took {duration(compiling)}."
    )

    parts = parts_of_a_step(ours, flags.rounds, device)
    whole = sum(parts.values())
    rows = [[name, duration(value), f"{value / whole:.1%}"] for name, value in parts.items()]
    report.table("Where the time goes", ["part", "median", "share"], rows)
    report_counts(report, ours, device, statistics.median(seconds[names[0]]))

    small = config.batch_per_domain // 4
    cases = {count: config_of(flags.preset, domains=count, batch=small, method="mdssl") for count in (1, 2, 4, 8, 16)}
    growth = take_turns(
        {f"{count} domain(s)": Ours(case, device) for count, case in cases.items()}, rounds=flags.rounds, device=device
    )
    rows = [
        [name, duration(statistics.median(values)), duration(statistics.median(values) / int(name.split()[0]))]
        for name, values in growth.items()
    ]
    report.table(f"Growth with the number of domains, {2 * small} views of each", ["", "step", "per domain"], rows)
    if device == "cuda":
        peak = extra_memory(prepare_whole, config, device, device=device)
        report_cuda(report, ours, views, flags.seconds, peak)
    peer = names[2] if config.precision == "bf16" else names[1]
    name = f"training step, {config.arch}, {views:,} views, both {config.precision}"
    report.claim_from(name, seconds, names[0], peer, views)


def report_cuda(report: Report, step: Ours, views: int, seconds: float, peak: float) -> None:
    """Print the steady state; ``peak`` is the peak memory of a step with model and images in MiB."""
    steps_without_waiting(step)
    torch.cuda.synchronize()
    started, first = time.perf_counter(), step.number
    while time.perf_counter() - started < seconds:
        for _ in range(20):
            step()
        torch.cuda.synchronize()
    each = (time.perf_counter() - started) / (step.number - first)
    hours = each * PAPER_STEPS / 3600
    rows = [
        ["host waits for the GPU", "never, in 20 steps under set_sync_debug_mode('error')"],
        ["step", f"{duration(each)}, {views / each:,.0f} views/s, over {step.number - first} steps"],
        ["peak memory", f"{peak:,.0f} MiB, with model, optimiser and {IMAGES:,} images a domain"],
        [
            f"{PAPER_STEPS:,} steps",
            f"{hours:.2f} h extrapolated; the paper: {PAPER_HOURS} h on two RTX 2080 (published)",
        ],
    ]
    report.table("Steady state", ["", ""], rows)


if __name__ == "__main__":
    main()
