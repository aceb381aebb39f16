"""The timings of bench/gpu.py: limits of the device, steps, views, probes and clustering."""

from __future__ import annotations

import torch
from counting import Limits, count, floor_of, floor_seconds, kernels, limits_of, median_seconds
from harness import timed
from probe import features
from step import parts_of_a_step
from training_steps import Ours, config_of

from mdssl.data.mixture import Mixture
from mdssl.device import multiplies_bf16
from mdssl.evaluate.classifier import Parts
from mdssl.evaluate.probe import lbfgs_probe
from mdssl.evaluate.sgd import raw_sgd_probes, sgd_probes
from mdssl.pretrain import pseudo_domains
from mdssl.pretrain.kmeans import kmeans


def _dtype(device: str) -> torch.dtype:
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32


def limits(run, found: dict) -> None:
    """Limits of the device."""
    measured = limits_of(run.device, _dtype(run.device), tiny=run.tiny)
    found["copies, GB/s"] = measured.bandwidth / 1e9
    found[f"products of matrices, {_dtype(run.device)}, TFLOP/s"] = measured.speed / 1e12
    found["last cache, MB"] = measured.cache / 1e6


def _step(run, found: dict, config) -> None:
    """Add the measurements of a step to ``found``, the cheap ones first."""
    device = run.device
    step = Ours(config, device)
    images = 2 * sum(step.counts)
    rounds = 1 if run.tiny else 10
    found["encoder"] = f"{config.arch}, {config.stem} stem, {config.precision}"
    found["views in a step"] = images
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = median_seconds(step, rounds=rounds, device=device)
    found["step, ms"] = 1e3 * seconds
    found["views/s"] = images / seconds
    if device == "cuda":
        found["memory at its peak, MiB"] = torch.cuda.max_memory_allocated() / 2**20
    counts = count(step)
    found |= {"launches": counts.launches, "GB moved": counts.bytes / 1e9, "TFLOP": counts.operations / 1e12}
    most = limits_of(device, _dtype(device), tiny=run.tiny)
    item, few = (2 if config.precision == "bf16" else 4), step.views()[:32]
    with torch.autocast(device, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        floor = floor_of(step.model, few, images, item=item, cache=most.cache)
    found |= _shares(most, counts, floor, seconds)
    for name, part in parts_of_a_step(step, rounds, device).items():
        found[f"{name}, ms"] = 1e3 * part
    if device == "cuda":
        found["kernels and copies"] = kernels(step)
    # Last, because compilation takes longest.
    for name, mode in (("compiled", None), ("compiled with CUDA graphs", "reduce-overhead")):
        if run.tiny or run.left() < 45:
            found[name] = f"left out: {'a rehearsal' if run.tiny else f'{run.left():.0f} s are left'}"
            continue
        compiled = Ours(config, device, compiled=True, mode=mode)
        found[f"until {name}, s"] = timed(compiled, device)
        fused = median_seconds(compiled, rounds=rounds, device=device)
        found[f"step, {name}, ms"] = 1e3 * fused
        found[f"views/s, {name}"] = images / fused
        found[f"floor's share of the step, {name}, %"] = found["floor's share of the step, %"] * seconds / fused
        if device == "cuda":
            found[f"kernels and copies, {name}"] = kernels(compiled)


def _shares(most: Limits, counts, floor: int, seconds: float) -> dict[str, float]:
    least = floor_seconds(counts, floor, most)
    return {
        "GB moved at least": floor / 1e9,
        "floor, ms": 1e3 * least,
        "floor's share of the step, %": 100 * least / seconds,
        "operations' share of the limit, %": 100 * counts.operations / seconds / most.speed,
        "bytes' share of the limit, %": 100 * counts.bytes / seconds / most.bandwidth,
    }


def paper_step(run, found: dict) -> None:
    """The paper's step: ResNet-50, 4 domains of 1,024 images."""
    _step(run, found, config_of("quick", batch=4) if run.tiny else config_of("paper"))


def cifar_step(run, found: dict) -> None:
    """A step of ResNet-18 with the stem for CIFAR, 4 domains of 512 images."""
    _step(run, found, config_of("quick", domains=2 if run.tiny else 4, batch=2 if run.tiny else 512, stem="cifar"))


def small_step(run, found: dict) -> None:
    """A step whose kernel launches may take longer than the kernels: 2 domains of 32 images."""
    _step(run, found, config_of("quick", batch=2 if run.tiny else 32, stem="cifar"))


def views(run, found: dict) -> None:
    """Two views of each image, as in a training step."""
    config = config_of("quick", domains=4, batch=8 if run.tiny else 1024)
    for name, compiled in (("views/s", False), ("views/s, compiled", True)):
        if run.tiny and compiled:
            continue
        step = Ours(config, run.device, compiled=compiled)
        seconds = median_seconds(step.views, rounds=1 if run.tiny else 20, device=run.device)
        found[name] = 2 * sum(step.counts) / seconds


def probe(run, found: dict) -> None:
    """Linear probes on features of ten classes."""
    train, test, width = (200, 100, 64) if run.tiny else (50_000, 10_000, 2_048)
    parts = Parts(*features(0, run.device, train=train, test=test, width=width), 10)
    epochs = 1 if run.tiny else 100
    probes = {
        "L-BFGS": lambda: lbfgs_probe(parts),
        f"SGD, {epochs} epochs": lambda: sgd_probes(parts, epochs=epochs)[0],
        f"SGD on raw features, {epochs} epochs": lambda: raw_sgd_probes(parts, epochs=epochs)[0],
    }
    for name, fit in probes.items():
        result = []
        seconds = timed(lambda fit=fit, result=result: result.append(fit()), run.device)
        found[f"{name}, {train:,} × {width:,}"] = {"seconds": seconds, "top-1, %": result[0].top1}


def clustering(run, found: dict) -> None:
    """Clustering: embedding on the device, K-Means on the CPU."""
    config = config_of("quick", batch=8) if run.tiny else config_of("paper")
    step = Ours(config, run.device)
    each = 40 if run.tiny else 10_000
    images = tuple(torch.randint(0, 256, (each, 32, 32, 3), dtype=torch.uint8).to(run.device) for _ in config.domains)
    mixture = Mixture(config.domains, images, config.batch_per_domain)
    z = []
    seconds = timed(lambda: z.append(pseudo_domains.embed(config, step.model, mixture)), run.device)
    found[f"embedding, images/s of {config.arch}"] = len(z[0]) / seconds
    found[f"K-Means of {len(z[0]):,} × {z[0].shape[1]}, s"] = timed(lambda: kmeans(z[0].cpu(), 4, seed=0))
