"""The checks of bench/gpu.py: loss, views, gradients and resumption on a GPU, and no waits for the GPU."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from step import steps_without_waiting
from torch.nn import functional as F
from training_steps import Ours

from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.data.mixture import Mixture
from mdssl.data.prepare import prepare
from mdssl.pretrain.loop import train
from mdssl.pretrain.loss import mdssl_loss
from mdssl.pretrain.model import build_model
from mdssl.pretrain.progress import Progress
from mdssl.pretrain.step import backward_at_once, two_views
from mdssl.pretrain.stopping import StoppedError

WEIGHTS = {"lambda1": 0.9, "lambda2": 0.1, "temperature": 0.1}
CONFIG = TrialConfig(
    arch="resnet18", domains=("noise-a", "noise-b"), batch_per_domain=16, iterations=5, lr_warmup_iterations=2,
    learning_rate=0.5, precision="fp32", lambda1=0.9, lambda2=0.1,
)  # fmt: skip


def noise(folder: Path) -> Path:
    """Make a data folder with the domains of `CONFIG`, each of 32 images of noise."""
    rng = np.random.default_rng(0)
    for name in CONFIG.domains:
        images, labels = rng.integers(256, size=(32, 32, 32, 3), dtype=np.uint8), np.arange(32) % 2
        source = folder / f"{name}.npz"
        np.savez(source, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
        prepare(name, data=folder / "noise", source=source, image_size=32, workers=1, progress=False)
    return folder / "noise"


def printed_loss(z_a: torch.Tensor, z_b: torch.Tensor, domains: torch.Tensor) -> torch.Tensor:
    """Eq. 2 to 4 as printed in the paper, from the whole similarity matrix."""
    z = F.normalize(torch.cat([z_a, z_b]), dim=1)
    s, of = z @ z.T / WEIGHTS["temperature"], domains.repeat(2)
    same, rows = of[:, None] == of, torch.arange(len(z))
    others = same & ~torch.eye(len(z), dtype=torch.bool)
    within = s.masked_fill(~others, -torch.inf).logsumexp(1).mean()
    across = s.masked_fill(same, -torch.inf).logsumexp(1).mean()
    positives = s[rows, (rows + len(z_a)) % len(z)].mean()
    return -positives + WEIGHTS["lambda1"] * within + WEIGHTS["lambda2"] * across


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative difference in norm."""
    got, expected = got.detach().double().cpu(), expected.detach().double().cpu()
    return float((got - expected).norm() / expected.norm().clamp(min=1e-300))


def verdict(found: float, allowed: float) -> dict:
    return {"difference": found, "allowed": allowed, "passed": found <= allowed}


def loss_against_float64(device: str, rows: int) -> dict[str, dict]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, rows, 128, generator=generator)
    domains = torch.arange(rows) % 4
    exact = z.double().requires_grad_()
    expected = printed_loss(*exact, domains)
    expected.backward()
    ours = z.to(device).requires_grad_()
    got = mdssl_loss(*ours, domains, **WEIGHTS).total
    got.backward()
    assert ours.grad is not None and exact.grad is not None
    return {
        f"loss of {2 * rows:,} rows, float32 against eq. 2 to 4 in float64": verdict(difference(got, expected), 1e-5),
        "its gradient": verdict(difference(ours.grad, exact.grad), 1e-4),
    }


def step_against_cpu(device: str, stems: tuple[str, ...]) -> dict[str, dict]:
    """Compare views and gradients of one step on ``device`` and on the CPU, from the same images and weights."""
    images = torch.randint(0, 256, (2, 32, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shares = [slice(0, CONFIG.batch_per_domain)] * 2
    here, cpu = (
        two_views(CONFIG, mixture, mixture.domains, 0, shares)
        for mixture in (Mixture(CONFIG.domains, tuple(images.to(place)), 16) for place in (device, "cpu"))
    )
    found = {"views against the CPU's": verdict(difference(here, cpu), 1e-3)}
    for stem in stems:
        model = build_model(replace(CONFIG, stem=stem)).double()
        for name, dtype, bound in (("float64", torch.float64, 1e-9), ("float32", torch.float32, 5e-2)):
            models = model.to(dtype=torch.float64), copy.deepcopy(model).to(device, dtype)
            for each, views in zip(models, (cpu.double(), cpu.to(device, dtype)), strict=True):
                each.zero_grad()
                backward_at_once(CONFIG, each, views, [[16, 16]])
            exact, got = (torch.cat([p.grad.flatten().cpu().double() for p in each.parameters()]) for each in models)
            found[f"gradients, {stem} stem, {name} against the CPU's float64"] = verdict(difference(got, exact), bound)
    return found


def resume(device: str, folder: Path) -> dict[str, dict]:
    """Compare a stopped and resumed run with an uninterrupted one, and two uninterrupted runs with each other."""
    data, config = noise(folder), CONFIG
    settings = RunSettings(track=(), report_every=1)
    deterministic, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True

    def trained(name: str, stops_at: int | None = None) -> torch.Tensor:
        asked = []

        def report(progress: Progress) -> None:
            if progress.step == stops_at:
                asked.append(True)

        own = {"data": data, "trial_dir": folder / name, "settings": settings, "device": device}
        if stops_at:
            try:
                train(config, report=report, stop_requested=lambda: bool(asked), **own)
            except StoppedError:
                pass
            else:
                raise AssertionError("the run did not stop")
        train(config, **own)
        weights = safetensors.torch.load((folder / name / "encoder.safetensors").read_bytes())
        return torch.cat([weights[key].flatten().double() for key in sorted(weights)])

    try:
        whole, again, resumed = trained("whole"), trained("again"), trained("resumed", stops_at=3)
    finally:
        torch.backends.cudnn.deterministic = deterministic
    noise_of_gpu = difference(again, whole)
    return {
        "weights after a stop and a resumption": verdict(difference(resumed, whole), 10 * noise_of_gpu),
        "weights of the same run again": {"difference": noise_of_gpu},
    }


def checks(run, found: dict) -> None:
    """Numerical checks against references."""
    found |= loss_against_float64(run.device, 64 if run.tiny else 1024)
    found |= step_against_cpu(run.device, ("imagenet",) if run.tiny else ("imagenet", "cifar"))
    found |= resume(run.device, run.folder)
    name = "steps that wait for the GPU, by set_sync_debug_mode"
    if run.device == "cpu":
        found[name] = {"why not": "needs a GPU"}
        return
    for precision in ("bf16", "fp32"):
        step = Ours(replace(CONFIG, batch_per_domain=64, precision=precision), run.device)
        step()
        steps_without_waiting(step)
    found[name] = verdict(0, 0)
