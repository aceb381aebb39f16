"""What each of two workers does for the tests of DDP, and the trials and batches that they share."""

import itertools
import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from factories import LikeCuda, tiny_trial
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig
from mdssl.data.mixture import Mixture
from mdssl.evaluate.validation import Validation
from mdssl.pretrain import loop, pseudo_domains, stopping
from mdssl.pretrain.loop import train
from mdssl.pretrain.loss import mdssl_loss, weighted_nt_xent
from mdssl.pretrain.model import build_model
from mdssl.pretrain.step import two_views
from mdssl.pretrain.stopping import StoppedError

# Labels per rank: equal shares, a domain that rank 1 lacks, and shares of different sizes.
LABELS = {
    "equal": ([0, 1, 2, 0], [2, 1, 0, 1]),
    "a domain that one rank lacks": ([0, 1, 2, 0, 5], [1, 1, 0, 0, 2]),
    "shares of different sizes": ([3, 0, 3, 1, 1, 0, 2], [0, 3]),
    "one domain": ([0, 0, 0], [0, 0, 0]),
}
LOSSES = {
    mdssl_loss: {"lambda1": 0.9, "lambda2": 0.1, "temperature": 0.1},
    weighted_nt_xent: {"negative_weight": 0.3, "temperature": 0.1},
}


def head() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double()


def images(case: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(len(case))
    return [torch.randn(2, len(labels), 6, dtype=torch.float64, generator=generator) for labels in LABELS[case]]


CLUSTERED = {"method": "mdssl-robust", "warmup_iterations": 2, "recluster_every": 2, "epsilon": 0.2}
WEIGHTED = {"method": "simclr-weighted", "lambda1": 1.0, "lambda2": 0.0, "negative_weight": 0.3}


def trial(**changes) -> TrialConfig:
    """A trial in which the shares of two workers have different sizes."""
    return tiny_trial(**{"batch_per_domain": 9} | changes)


def exact_model(config: TrialConfig) -> nn.Module:
    """The model in float64. In float32 the order of sums, which depends on the CPU, decides the sign of ReLU inputs
    near zero, and this moves the weights by up to 1e-2 of what training changes."""
    model = build_model(config).double()
    model.encoder.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    return model


def exact_views(config, mixture, groups, step, shares, *, compiled=False):
    """A worker's part of the views of the whole batch. Views made in float32 for the share alone round differently.
    test_step.py tests that the views of workers are parts of those of the whole batch."""
    whole = two_views(config, mixture, groups, step, [slice(0, group.batch) for group in groups], compiled=compiled)
    starts = np.cumsum([0, *(group.batch for group in groups)])
    rows = np.concatenate([np.arange(a + s.start, a + s.stop) for a, s in zip(starts, shares, strict=False)])
    return whole[torch.from_numpy(np.concatenate([rows, rows + starts[-1]]))]


EXACT = {"build_model": exact_model, "two_views": exact_views}


def run(data, folder, report=lambda at: None, *, stop_requested=lambda: False, settings=None, validate=None, **changes):
    # Checkpoints are written only at the end and when a run is stopped.
    settings = {"report_every": 2, "checkpoint_seconds": 1000} | (settings or {})
    return train(
        trial(**changes),
        data=data,
        trial_dir=folder,
        settings=RunSettings(**settings),
        device="cpu",
        report=report,
        stop_requested=stop_requested,
        validate=validate,
    )


def worker(rank: int, folder: str, data: str) -> None:
    torch.set_num_threads(1)
    for name, exact in EXACT.items():
        setattr(loop, name, exact)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {}
    for (case, labels), (compute, weights) in itertools.product(LABELS.items(), LOSSES.items()):
        model = DistributedDataParallel(head())
        x = images(case)[rank]
        z = model(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        of_ranks = [torch.tensor(each) for each in labels]
        loss = compute(z[0], z[1], of_ranks[rank], **weights, of_ranks=of_ranks)
        exchanged = compute(z[0], z[1], of_ranks[rank], **weights)
        results[case, compute.__name__, "labels"] = (torch.stack(loss).detach(), torch.stack(exchanged).detach())
        loss.total.backward()
        results[case, compute.__name__] = [*(term.detach() for term in loss), *(p.grad for p in model.parameters())]
    run(data, f"{folder}/two-workers", settings={"checkpoint_seconds": 0})
    run(data, f"{folder}/resumed")
    run(data, f"{folder}/without-norm-by-two", norm="group")
    run(data, f"{folder}/cached", batching="per-domain", settings={"gradient_caching": True})
    run(data, f"{folder}/clustered-by-two", **CLUSTERED)
    run(data, f"{folder}/weighted-by-two", **WEIGHTED)
    for name, arch in OF_TIMM.items():
        run(data, f"{folder}/{name}-by-two", arch=arch, optimizer="adamw", learning_rate=1e-3)
    for iterations in (5, 6):
        run(data, f"{folder}/longer/trials/{iterations}-steps", iterations=iterations, **STABLE)
    results["stopped"] = stop_in_step_3(data, f"{folder}/stopped", asked=rank == 1)
    run(data, f"{folder}/stopped")
    # Scores must not change the batch-norm statistics either.
    run(data, f"{folder}/unscored", iterations=3)
    results["ended"] = end_after_step_2(data, f"{folder}/scored", rank)
    validate = Validation(data, ["tiny-a"], device="cpu")
    run(data, f"{folder}/scored", iterations=3, **SCORED, validate=validate)
    results["reports"] = [reports_of(data, f"{folder}/{device}", rank, device) for device in ("cpu", LikeCuda("cpu"))]
    results["clusters"] = clusters_of_an_untrained_encoder(data)
    torch.save(results, f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


STABLE = {"schedule": "wsd", "decay_fraction": 0.4}
OF_TIMM = {"transformer": "timm/test_vit", "batch norm with activation": "timm/test_efficientnet"}
SCORED = {"settings": {"score_every": 2, "report_every": 5}}


def end_after_step_2(data: str, folder: str, rank: int) -> tuple[str, int, list[bool]]:
    """Status and step at the end, and which reports of this rank have a score. Rank 0 ends training in step 2; the
    answer of rank 1 has no effect."""
    found = []

    def report(progress):
        found.append(progress.val_linear_top1 is not None)
        return "end" if rank == 0 else "save"

    validate = Validation(data, ["tiny-a"], device="cpu")
    ended = run(data, folder, report, iterations=3, **SCORED, validate=validate)
    return ended["status"], ended["step"], found


def reports_of(data: str, folder: str, rank: int, device: str) -> list[tuple[int, bool, int]]:
    """For each report its step, whether it is due, and the number of steps begun. A step takes 0.1 s by the clock of
    rank 0 and 0.16 s by the clock of rank 1."""
    found, begun, now = [], [0], [1000.0]

    def watched(config, mixture, groups, step, *more, **named):
        begun.append(step + 1)
        now[0] += (0.1, 0.16)[rank]
        return exact_views(config, mixture, groups, step, *more, **named)

    clock = type("Clock", (), {"monotonic": lambda: now[0], "perf_counter": lambda: now[0]})
    with pytest.MonkeyPatch.context() as patched:
        for module in (loop, stopping):
            patched.setattr(module, "time", clock)
        patched.setattr(stopping, "_ASK_SECONDS", 1.0)
        patched.setattr(loop, "pick_device", lambda _: device)
        patched.setattr(loop, "two_views", watched)
        for name in ("get_device_name", "reset_peak_memory_stats", "max_memory_allocated"):
            patched.setattr(torch.cuda, name, lambda *_: 0)
        settings = {"report_every": 1, "checkpoint_seconds": 1.45}
        run(data, folder, lambda at: found.append((at.step, at.is_due, begun[-1])), iterations=24, settings=settings)
    return found


def stop_in_step_3(data: str, folder: str, asked: bool) -> tuple[str, list[str]]:
    """The message, and the files that this rank finds when it ends."""
    answers = iter([False] * 3 + [asked] * 10)
    stopping._ASK_SECONDS = 0.0
    try:
        run(data, folder, stop_requested=lambda: next(answers))
    except StoppedError as stopped:
        return str(stopped), os.listdir(f"{folder}/checkpoints")


def clusters_of_an_untrained_encoder(data: str) -> list[torch.Tensor]:
    config = trial(**CLUSTERED)
    mixture = Mixture.load(data, config.domains, batch_per_domain=config.batch_per_domain, device="cpu")
    found, _ = pseudo_domains.find(config, exact_model(config), mixture, None, number=0, step=0)
    return [found.labels, found.kept, found.centroids]
