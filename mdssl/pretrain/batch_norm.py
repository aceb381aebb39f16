"""Batch-norm over the images of all workers, on any device, without a synchronization of host and device."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from mdssl.errors import InputError


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` that uses the statistics of the global batch in training, with the same state.

    PyTorch's SyncBatchNorm requires CUDA, and makes the host wait for the GPU three times per layer. Workers may have
    different numbers of images, or none.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        y, mean, variance, count = _Normalize.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None and self.momentum is not None
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                unbiased = variance * (count / (count - 1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return y


class _GlobalBatchNormAct2d(GlobalBatchNorm2d):
    """The same for ``BatchNormAct2d`` of timm, which has dropout and activation inside."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))


def make_global(model: nn.Module) -> None:
    """Turn each `torch.nn.BatchNorm2d` of ``model``, and timm's of the same kind, into a `GlobalBatchNorm2d`, in place.

    Only the class changes, so that parameters, buffers and their names stay the same.

    Raises:
        InputError: another layer has statistics of the batch, which would be those of one worker.
    """
    for name, module in model.named_modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d
        elif (kind := type(module)).__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm."):
            module.__class__ = _GlobalBatchNormAct2d
        elif {"running_mean", "running_var"} & dict(module.named_buffers(recurse=False)).keys():
            raise InputError(
                f"the layer {name} of the encoder is a {kind.__name__}, whose statistics of the batch would differ "
                "between workers; train with one worker, or choose another arch."
            )


class _Normalize(torch.autograd.Function):
    """(B, C, H, W) normalized over all workers, with the (C,) mean and variance and the number of values of each.

    One collective in each direction, as in Ioffe & Szegedy (2015) with sums over all workers. Only the input, in its
    own type, is kept for the backward pass. Statistics are of float32, or of float64 for such inputs.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        values = _wide(x)
        rows = x.numel() // x.shape[1]
        if rows:
            own_variance, own_mean = torch.var_mean(values, (0, 2, 3), correction=0)
        else:
            own_variance = own_mean = values.new_zeros(x.shape[1])
        # A row for each worker: the mean of squares minus the square of the mean would lose digits.
        table = values.new_zeros(dist.get_world_size(), 2 * x.shape[1] + 1)
        table[dist.get_rank()] = torch.cat((own_mean, own_variance, values.new_full((1,), rows)))
        dist.all_reduce(table)
        means, variances, counts = table.split((x.shape[1], x.shape[1], 1), dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        scale = torch.rsqrt(variance + eps)
        y = (values - _by_channel(mean)).mul_(_by_channel(scale * weight)).add_(_by_channel(bias))
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *others: None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        grad, normalized = _wide(grad), (_wide(x) - _by_channel(mean)).mul_(_by_channel(scale))
        # Of this worker's images: DistributedDataParallel takes the mean over workers, as of all parameters.
        grad_bias, grad_weight = grad.sum((0, 2, 3)), (grad * normalized).sum((0, 2, 3))
        sums = torch.stack((grad_bias, grad_weight))
        dist.all_reduce(sums)
        of_mean, of_scale = sums / count
        grad_x = (grad - _by_channel(of_mean) - normalized.mul_(_by_channel(of_scale))).mul_(
            _by_channel(scale * weight)
        )
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _by_channel(values: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, 1, 1)
