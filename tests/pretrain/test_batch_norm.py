"""Batch norm over several workers equals that of one process on all images, in training and in the state afterwards.

Two gloo processes are started once. They run every case and save their results to a file.
"""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from factories import tiny_trial
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mdssl.pretrain.batch_norm import GlobalBatchNorm2d, make_global
from mdssl.pretrain.model import build_model
from mdssl.pretrain.step import statistics_untouched

pytestmark = pytest.mark.ddp

SHARES = {"4 and 5 images": slice(0, 4), "1 and 8 images": slice(0, 1), "all images on the second": slice(0, 0)}
"""The part of 9 images on the first worker. The second worker has the rest."""


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(5 * 16, 4)).double()


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    # Far from zero, where the mean of squares minus the square of the mean would lose precision.
    return torch.randn(9, 3, 8, 8, dtype=torch.float64, generator=generator) + 5, torch.arange(9) % 4


def four_steps(model: nn.Module, rows: slice, workers: int) -> list[torch.Tensor]:
    """The state after four SGD steps on the mean loss of all images. Before each, a pass must not change the state."""
    step_model = model
    if workers > 1:
        step_model = DistributedDataParallel(model, gradient_as_bucket_view=True)
        step_model.broadcast_buffers = False
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = images()
    for _ in range(4):
        with torch.no_grad(), statistics_untouched(model):
            model(x[rows])
        optimizer.zero_grad()
        # DistributedDataParallel divides the sum of gradients by the number of workers.
        (workers * F.cross_entropy(step_model(x[rows]), y[rows], reduction="sum") / len(x)).backward()
        optimizer.step()
    return [value.clone() for value in model.state_dict().values()]


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {}
    for case, first in SHARES.items():
        model = network()
        make_global(model)
        results[case] = four_steps(model, first if rank == 0 else slice(first.stop, 9), workers=2)
    # As under autocast, the input of the layer is bfloat16, and its weights and statistics are float32.
    layer = network()[1].float()
    make_global(nn.Sequential(layer))
    x = images()[0][rank * 5 : rank * 5 + 4].repeat(1, 2, 1, 1).bfloat16().requires_grad_()
    y = layer(x)
    (y.float() ** 3).sum().backward()
    results["bfloat16"] = [y.detach(), x.grad, layer.weight.grad, layer.running_mean, layer.running_var]
    torch.save(results, f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch-norm")
    mp.spawn(worker, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("case", SHARES)
@pytest.mark.parametrize("rank", [0, 1])
def test_two_workers_reach_the_state_of_one_process(results, case, rank):
    for got, expected in zip(results[rank][case], four_steps(network(), slice(0, 9), workers=1), strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_statistics_are_bitwise_equal_on_all_workers(results):
    """Statistics are not sent between workers, and the saved encoder is that of one worker."""
    for case in SHARES:
        assert all(torch.equal(*both) for both in zip(results[0][case], results[1][case], strict=True))


def test_bfloat16_inputs_keep_their_type_and_statistics_are_float32(results):
    layer = network()[1].float()
    x = torch.cat([images()[0][:4], images()[0][5:]]).repeat(1, 2, 1, 1).bfloat16().requires_grad_()
    y = layer(x)
    (y.float() ** 3).sum().backward()
    (y_a, x_a, weight_a, *statistics), (y_b, x_b, weight_b, *others) = (each["bfloat16"] for each in results)
    assert y_a.dtype == x_a.dtype == torch.bfloat16
    # The last bit of bfloat16 is 0.4 to 0.8 % of a number.
    torch.testing.assert_close(torch.cat([y_a, y_b]), y.detach(), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(torch.cat([x_a, x_b]), x.grad, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(weight_a + weight_b, layer.weight.grad, rtol=1e-2, atol=1e-2)
    for found in (statistics, others):
        torch.testing.assert_close(found, [layer.running_mean, layer.running_var], rtol=1e-6, atol=1e-6)


def test_make_global_keeps_the_names_and_parameters_of_a_model():
    model = build_model(tiny_trial())
    names, parameters = list(model.state_dict()), list(model.parameters())
    make_global(model)
    assert list(model.state_dict()) == names
    assert all(after is before for after, before in zip(model.parameters(), parameters, strict=True))
    assert not any(type(module) is nn.BatchNorm2d for module in model.modules())
    assert any(type(module) is GlobalBatchNorm2d for module in model.modules())


def test_global_batch_norm_needs_no_other_worker_in_evaluation_mode():
    layer = nn.BatchNorm2d(3)
    layer.running_mean += 2
    x = torch.randn(4, 3, 5, 5)
    expected = layer.eval()(x)
    make_global(nn.Sequential(layer))
    assert torch.equal(layer(x), expected)
