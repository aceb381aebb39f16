"""Optimizers against their definitions in NumPy, excluded parameters, and the learning rate in closed form."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mdssl.config.trial import Recipe
from mdssl.pretrain.optim import LARS, build_optimizer, learning_rate


def numpy_lars(weight, grads, *, lr, weight_decay, adapt):
    weight, velocity = weight.astype(np.float64), 0.0
    for grad in grads:
        w_norm, g_norm = np.linalg.norm(weight), np.linalg.norm(grad)
        step = grad
        if adapt:
            scale = 0.001 * w_norm / (g_norm + weight_decay * w_norm) if w_norm > 0 and g_norm > 0 else 1.0
            step = (grad + weight_decay * weight) * scale
        velocity = 0.9 * velocity + step
        weight = weight - lr * velocity
    return weight


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("start", ["random", "small", "zero weights", "zero gradient"])
def test_lars_follows_its_definition(adapt, start):
    rng = np.random.default_rng(0)
    weight, grads = rng.normal(size=(4, 5)), rng.normal(size=(3, 4, 5))
    if start == "small":
        weight, grads = 0.01 * weight, 0.01 * grads
    if start == "zero weights":
        weight[:] = 0
    if start == "zero gradient":
        grads[0] = 0
    parameter = nn.Parameter(torch.tensor(weight))
    optimizer = LARS([{"params": [parameter], "adapt": adapt}], lr=4.0, weight_decay=1e-2)
    for grad in grads:
        parameter.grad = torch.tensor(grad)
        optimizer.step()
    expected = numpy_lars(weight, grads, lr=4.0, weight_decay=1e-2, adapt=adapt)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-10)


class SameShapes(TorchDispatchMode):
    """Checks PyTorch's condition for one launch: all tensors of a parameter have the same shape and memory layout."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        lists = [arg for arg in args if isinstance(arg, list) and isinstance(arg[0], torch.Tensor)]
        if "foreach" in str(function):
            for tensors in zip(*lists, strict=True):
                assert len({(tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors}) == 1, function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("device", "expected"), [("cpu", [1, 1]), ("meta", [2])])
def test_lars_updates_parameters_one_by_one_on_a_cpu_and_at_once_on_a_gpu(monkeypatch, device, expected):
    sizes, parameters = [], [nn.Parameter(torch.ones(2, 2, device=device)) for _ in range(2)]
    monkeypatch.setattr(LARS, "_update", lambda self, some, group: sizes.append(len(some)))
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    LARS(parameters, lr=1.0).step()
    assert sizes == expected


@pytest.mark.parametrize("count", [2, 3])
def test_lars_on_a_gpu_follows_its_definition_with_one_launch(count):
    rng = np.random.default_rng(0)
    starts = [rng.normal(size=shape) for shape in ((4, 3, 2, 2), (5, 4), (3, 2, 1, 1))[:count]]
    parameters = [nn.Parameter(torch.tensor(start)) for start in starts]
    parameters[0].data = parameters[0].data.contiguous(memory_format=torch.channels_last)
    optimizer = LARS(parameters, lr=4.0, weight_decay=1e-2)
    grads = [[rng.normal(size=start.shape) for start in starts] for _ in range(3)]
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    for step in grads:
        for parameter, grad in zip(parameters, step, strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(torch.tensor(grad))
        with torch.no_grad(), SameShapes():
            # `step` calls this when parameters are not on a CPU.
            optimizer._update(parameters, optimizer.param_groups[0])
    for start, parameter, own in zip(starts, parameters, zip(*grads, strict=True), strict=True):
        expected = numpy_lars(start, own, lr=4.0, weight_decay=1e-2, adapt=True)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-10)


def test_parameter_without_a_gradient_is_not_changed():
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    used.grad = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    LARS([used, unused], lr=1.0).step()
    # Without weight decay, the step is the trust coefficient times the norm of the weights, along the gradient.
    torch.testing.assert_close(used.detach(), torch.tensor([[0.998, 1.0], [1.0, 1.0]]))
    assert torch.equal(unused, torch.ones(2, 2))


def numpy_sgd(weight, grads, *, lr, weight_decay):
    velocity = 0.0
    for grad in grads:
        velocity = 0.9 * velocity + grad + weight_decay * weight
        weight = weight - lr * velocity
    return weight


def numpy_adamw(weight, grads, *, lr, weight_decay):
    """Loshchilov & Hutter 2019, algorithm 2, with the usual β1 = 0.9, β2 = 0.999, ε = 1e-8."""
    first, second = 0.0, 0.0
    for step, grad in enumerate(grads, start=1):
        weight = weight * (1 - lr * weight_decay)
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
        weight = weight - lr * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return weight


@pytest.mark.parametrize(
    ("name", "definition"),
    [("lars", partial(numpy_lars, adapt=True)), ("sgd", numpy_sgd), ("adamw", numpy_adamw)],
    ids=["lars", "sgd", "adamw"],
)
def test_each_optimizer_follows_its_definition(name, definition):
    rng = np.random.default_rng(0)
    layer = nn.Linear(4, 3, dtype=torch.float64)
    before = {key: value.detach().numpy().copy() for key, value in layer.named_parameters()}
    grads = {key: rng.normal(size=(4, *value.shape)) for key, value in before.items()}
    optimizer = build_optimizer(Recipe(optimizer=name, learning_rate=0.3, weight_decay=0.1), layer)
    for step in range(4):
        for key, parameter in layer.named_parameters():
            parameter.grad = torch.tensor(grads[key][step])
        optimizer.step()
    expected = definition(before["weight"], grads["weight"], lr=0.3, weight_decay=0.1)
    np.testing.assert_allclose(layer.weight.detach().numpy(), expected, rtol=1e-7)
    without = partial(numpy_lars, adapt=False) if name == "lars" else definition
    expected = without(before["bias"], grads["bias"], lr=0.3, weight_decay=0.0)
    np.testing.assert_allclose(layer.bias.detach().numpy(), expected, rtol=1e-7)


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_biases_and_norm_parameters_have_no_weight_decay(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    optimizer = build_optimizer(Recipe(optimizer=name, weight_decay=0.1), model)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(model[0].weight), id(model[3].weight)}
    everything = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())


def test_learning_rate_warms_up_linearly_and_anneals_as_torch_does():
    recipe = Recipe(learning_rate=4.0, iterations=50, lr_warmup_iterations=10)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=4.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(10):
        assert learning_rate(recipe, step) == pytest.approx(4.0 * (step + 1) / 10)
    for step in range(10, 50):
        assert learning_rate(recipe, step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        cosine.step()


def test_a_warmup_longer_than_the_run_still_reaches_the_peak():
    assert learning_rate(Recipe(iterations=5, lr_warmup_iterations=480, learning_rate=2.0), 4) == 2.0


@pytest.mark.parametrize("changes", [{"lr_warmup_iterations": 4}, {"schedule": "wsd", "decay_fraction": 0.2}])
def test_decay_of_a_single_step_would_end_at_zero(changes):
    recipe = Recipe(**{"iterations": 5, "lr_warmup_iterations": 1, "learning_rate": 2.0} | changes)
    assert [learning_rate(recipe, step) for step in (4, 5)] == pytest.approx([2.0, 0.0])
