"""Several workers compute the same loss, gradients and weights as a single process on the joined batch.

Two gloo processes are started once. They run every case and save their results to a file.
"""

import json

import pytest
import safetensors.torch
import torch
import torch.multiprocessing as mp
from ddp_worker import (
    CLUSTERED,
    EXACT,
    LABELS,
    LOSSES,
    OF_TIMM,
    STABLE,
    WEIGHTED,
    clusters_of_an_untrained_encoder,
    head,
    images,
    run,
    worker,
)

from mdssl.config.trial import TrialConfig
from mdssl.pretrain import loop
from mdssl.pretrain.model import build_model

pytestmark = pytest.mark.ddp


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_data):
    folder = tmp_path_factory.mktemp("ddp")

    def stop_half_way(progress):
        if progress.step == 4:
            raise InterruptedError

    with pytest.MonkeyPatch.context() as patched:
        for name, exact in EXACT.items():
            patched.setattr(loop, name, exact)
        with pytest.raises(InterruptedError):
            run(tiny_data, folder / "resumed", stop_half_way, settings={"checkpoint_seconds": 0})
        mp.spawn(worker, args=(str(folder), tiny_data), nprocs=2)
        run(tiny_data, folder / "one-worker")
        run(tiny_data, folder / "without-norm-by-one", norm="group")
        run(tiny_data, folder / "per-domain", batching="per-domain")
        run(tiny_data, folder / "clustered-by-one", **CLUSTERED)
        run(tiny_data, folder / "weighted-by-one", **WEIGHTED)
        for name, arch in OF_TIMM.items():
            run(tiny_data, folder / f"{name}-by-one", arch=arch, optimizer="adamw", learning_rate=1e-3)
        run(tiny_data, folder / "at-once/trials/6-steps", **STABLE)
    return folder


@pytest.mark.parametrize("compute", LOSSES)
@pytest.mark.parametrize("case", LABELS)
@pytest.mark.parametrize("rank", [0, 1])
def test_loss_and_gradients_are_those_of_the_joined_batch(folder, case, rank, compute):
    model, x = head(), torch.cat(images(case), dim=1)
    z = model(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    labels = torch.tensor([label for share in LABELS[case] for label in share])
    loss = compute(z[0], z[1], labels, **LOSSES[compute])
    loss.total.backward()
    expected = [*(term.detach() for term in loss), *(p.grad for p in model.parameters())]
    for got, wanted in zip(torch.load(folder / f"rank-{rank}.pt")[case, compute.__name__], expected, strict=True):
        # In float64 only the order of sums makes a difference.
        assert (got - wanted).norm() <= 1e-12 * wanted.norm()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("one-worker", "two-workers"),
        ("one-worker", "resumed"),
        ("without-norm-by-one", "without-norm-by-two"),
        ("per-domain", "cached"),
        ("one-worker", "stopped"),
        ("clustered-by-one", "clustered-by-two"),
        ("weighted-by-one", "weighted-by-two"),
        *((f"{name}-by-one", f"{name}-by-two") for name in OF_TIMM),
        ("at-once/trials/6-steps", "longer/trials/6-steps"),
    ],
)
def test_two_workers_train_the_same_encoder_as_one_worker(folder, one, other):
    """Cases: one worker begins and two workers resume from its checkpoint; group norm; per-domain batching with cached
    gradients; a run that was stopped; domains found by clustering; weighted negatives; encoders of timm; and a trial of
    schedule wsd that resumes from the stable part of a shorter trial."""
    expected, got = (safetensors.torch.load_file(folder / name / "encoder.safetensors") for name in (one, other))
    initial = build_model(TrialConfig.from_dict(json.loads((folder / one / "config.json").read_text()))).state_dict()
    changed = torch.cat([(expected[name] - value).flatten() for name, value in initial.items()])
    apart = torch.cat([(got[name] - value).flatten() for name, value in expected.items()])
    # Only the order of sums makes a difference, in float64 over 6 steps. The largest difference seen was 1e-14.
    assert apart.norm() < 1e-10 * changed.norm()


def test_two_workers_resume_from_the_stable_part_of_a_shorter_trial(folder):
    ended = json.loads((folder / "longer/trials/6-steps/training.json").read_text())
    assert ended["continued_from"]["step"] == 3


@pytest.mark.parametrize("case", LABELS)
def test_known_labels_and_exchanged_labels_give_the_same_loss(folder, case):
    for compute in LOSSES:
        known, exchanged = torch.load(folder / "rank-1.pt")[case, compute.__name__, "labels"]
        assert torch.equal(known, exchanged)


def test_all_workers_have_the_clusters_of_a_single_process(folder, tiny_data):
    expected = clusters_of_an_untrained_encoder(tiny_data)
    for rank in (0, 1):
        labels, kept, centroids = torch.load(folder / f"rank-{rank}.pt")["clusters"]
        assert torch.equal(labels, expected[0])
        assert torch.equal(kept, expected[1])
        # Centroids are means of float32 embeddings, which agree up to their last bit or two.
        torch.testing.assert_close(centroids, expected[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 1])
def test_request_to_stop_one_worker_stops_all_workers_after_the_same_step(folder, rank):
    message, saved = torch.load(folder / f"rank-{rank}.pt")["stopped"]
    assert (message, saved) == ("stopped at step 3 of 6", ["step-00000003.safetensors"])


def test_two_workers_save_a_checkpoint_at_every_report(folder):
    names = sorted(file.name for file in (folder / "two-workers/checkpoints").iterdir())
    assert names == ["step-00000004.safetensors", "step-00000006.safetensors"]


def test_all_workers_make_the_same_reports_after_the_same_steps(folder):
    """Otherwise they would wait for each other: in Ray Train's reports, or one in a report and the other in a step."""
    (on_cpu, on_gpu), others = (torch.load(folder / f"rank-{rank}.pt")["reports"] for rank in (0, 1))
    assert [on_cpu, on_gpu] == others
    for found in (on_cpu, on_gpu):
        # A report is due every 6 steps, about a second of the slower worker.
        assert [step for step, is_due, _ in found if is_due] == [1, 7, 13, 19, 24]
    assert on_cpu == [(step, is_due, step) for step, is_due, _ in on_cpu]
    # Rank 0 requests a checkpoint from step 15 on. All workers know in step 19 and save it after all earlier reports.
    assert [(step, begun) for step, _, begun in on_gpu] == [(n, n if n in (19, 24) else n + 1) for n in range(1, 25)]


def test_scores_and_an_early_end_do_not_change_the_encoder_of_two_workers(folder):
    expected, got = (
        safetensors.torch.load_file(folder / name / "encoder.safetensors") for name in ("unscored", "scored")
    )
    assert any("running_var" in name for name in expected)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_all_workers_end_early_after_the_same_step_and_rank_0_has_the_score(folder):
    assert [torch.load(folder / f"rank-{rank}.pt")["ended"] for rank in (0, 1)] == [
        ("stopped", 2, [True]),
        ("stopped", 2, [False]),
    ]
