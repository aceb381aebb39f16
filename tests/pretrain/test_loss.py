"""The objective against a reference that follows eqs. 1-4 row by row in float64."""

import re

import pytest
import torch
from torch.nn import functional as F

from mdssl.errors import InputError
from mdssl.pretrain import loss as loss_module
from mdssl.pretrain.loss import mdssl_loss, weighted_nt_xent

RAGGED = torch.tensor([7, 2, 2, 7, 5, 7, 2, 2, 7, 5, 7, 2, 9])


def reference(z_a, z_b, domains, *, lambda1, lambda2, temperature):
    """Eqs. 2-4 as three sums over rows, in Python."""
    z = torch.cat([z_a, z_b]).double()
    z = z / z.norm(dim=1, keepdim=True)
    d, images = torch.cat([domains, domains]), len(domains)
    s = torch.exp(z @ z.T / temperature)
    alignment = within = across = z.new_zeros(())
    for i in range(images):
        alignment = alignment - torch.log(s[i, i + images]) / images
    for i in range(2 * images):
        own = [s[i, j] for j in range(2 * images) if j != i and d[j] == d[i]]
        others = [s[i, j] for j in range(2 * images) if d[j] != d[i]]
        within = within + torch.log(sum(own)) / (2 * images)
        if others:
            across = across + torch.log(sum(others)) / (2 * images)
    return alignment + lambda1 * within + lambda2 * across, alignment, within, across


def views(images, width=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, width, dtype=dtype, generator=generator).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize("tile_rows", [3, 512])
@pytest.mark.parametrize(
    ("domains", "lambda1", "lambda2"),
    [
        (RAGGED, 0.9, 0.1),
        (RAGGED, 1.0, 0.0),
        (torch.zeros(6, dtype=torch.long), 0.95, 0.2),
        (torch.tensor([0, 1]), 0.9, 0.1),
        (torch.arange(5), 1.0, 0.1),
    ],
    ids=["ragged and unsorted", "lambda2=0", "one domain", "two images", "every image its own domain"],
)
def test_terms_and_gradients_match_the_paper(monkeypatch, tile_rows, domains, lambda1, lambda2):
    monkeypatch.setitem(loss_module._TILE_ROWS, "cpu", tile_rows)
    z_a, z_b = views(len(domains))
    settings = {"lambda1": lambda1, "lambda2": lambda2, "temperature": 0.1}
    ours = mdssl_loss(z_a, z_b, domains, **settings)
    theirs = reference(z_a, z_b, domains, **settings)
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    got = torch.autograd.grad(ours.total, (z_a, z_b))
    expected = torch.autograd.grad(theirs[0], (z_a, z_b))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_mdssl_loss_passes_gradcheck():
    domains = torch.tensor([0, 1, 1, 0, 2])
    z_a, z_b = views(5, width=3)

    def total(a, b):
        return mdssl_loss(a, b, domains, lambda1=0.9, lambda2=0.3, temperature=0.5).total

    assert torch.autograd.gradcheck(total, (z_a, z_b))


@pytest.mark.parametrize("temperature", [0.02, 0.1, 0.5])
def test_mdssl_loss_of_one_domain_equals_nt_xent(temperature):
    """The reference is the usual form of SimCLR's loss: cross-entropy over similarities without the diagonal."""
    z_a, z_b = views(16)  # in float64, where only the order of sums makes a difference
    z = F.normalize(torch.cat([z_a, z_b]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(float("-inf"))
    nt_xent = F.cross_entropy(logits, torch.arange(32).roll(16))
    ours = mdssl_loss(
        z_a, z_b, torch.zeros(16, dtype=torch.long), lambda1=1.0, lambda2=0.0, temperature=temperature
    ).total
    torch.testing.assert_close(ours, nt_xent, rtol=1e-11, atol=1e-11)
    got, expected = (torch.autograd.grad(loss, (z_a, z_b)) for loss in (ours, nt_xent))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def weighted_reference(z_a, z_b, domains, weight, temperature):
    """The mean over rows of log-softmax at the positive, with ``weight`` on pairs of different domains, in Python."""
    z = torch.cat([z_a, z_b]).double()
    z = z / z.norm(dim=1, keepdim=True)
    d, rows = torch.cat([domains, domains]).tolist(), 2 * len(domains)
    total = z.new_zeros(())
    for i in range(rows):
        weights = [1.0 if d[i] == d[j] else weight for j in range(rows)]
        compared = sum(w * torch.exp(z[i] @ z[j] / temperature) for j, w in enumerate(weights) if j != i)
        total = total - (torch.exp(z[i] @ z[(i + len(domains)) % rows] / temperature) / compared).log() / rows
    return total


@pytest.mark.parametrize("tile_rows", [3, 512])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "domains",
    [RAGGED, torch.zeros(6, dtype=torch.long), torch.tensor([0, 1, 0]), torch.arange(5)],
    ids=["ragged", "one", "two", "each its own"],
)
def test_weighted_nt_xent_follows_its_formula(monkeypatch, domains, weight, tile_rows):
    monkeypatch.setitem(loss_module._TILE_ROWS, "cpu", tile_rows)
    z_a, z_b = views(len(domains))
    ours = weighted_nt_xent(z_a, z_b, domains, negative_weight=weight, temperature=0.1)
    theirs = weighted_reference(z_a, z_b, domains, weight, 0.1)
    torch.testing.assert_close(ours.total, theirs, rtol=1e-12, atol=1e-12)
    got, expected = (torch.autograd.grad(loss, (z_a, z_b)) for loss in (ours.total, theirs))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("weight", "domains_of_mdssl"), [(1.0, torch.zeros_like(RAGGED)), (0.0, RAGGED)])
def test_weighted_nt_xent_equals_mdssl_loss_at_weights_zero_and_one(weight, domains_of_mdssl):
    z_a, z_b = views(len(RAGGED))
    ours = weighted_nt_xent(z_a, z_b, RAGGED, negative_weight=weight, temperature=0.1).total
    other = mdssl_loss(z_a, z_b, domains_of_mdssl, lambda1=1.0, lambda2=0.0, temperature=0.1).total
    torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_weighted_nt_xent_passes_gradcheck(weight):
    domains = torch.tensor([0, 1, 1, 0, 2])
    z_a, z_b = views(5, width=3)

    def total(a, b):
        return weighted_nt_xent(a, b, domains, negative_weight=weight, temperature=0.5).total

    assert torch.autograd.gradcheck(total, (z_a, z_b))


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_negative_weight_outside_its_range_is_refused(weight):
    z_a, z_b = views(4)
    with pytest.raises(ValueError, match="negative_weight is .*; it must be"):
        weighted_nt_xent(z_a, z_b, torch.arange(4), negative_weight=weight, temperature=0.1)


def test_loss_of_bf16_inputs_under_autocast_is_computed_in_float32():
    domains = torch.arange(64) % 3
    z_a, z_b = (z.bfloat16().detach().requires_grad_() for z in views(64, width=128))
    settings = {"lambda1": 0.9, "lambda2": 0.1, "temperature": 0.1}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = mdssl_loss(z_a, z_b, domains, **settings)
    theirs = reference(z_a, z_b, domains, **settings)
    assert ours.total.dtype == torch.float32
    torch.testing.assert_close(ours.total.double(), theirs[0], rtol=1e-5, atol=1e-5)


def test_loss_of_identical_views_is_finite_at_the_lowest_temperature():
    z = torch.ones(8, 4, requires_grad=True)
    loss = mdssl_loss(z, z, torch.arange(8) % 2, lambda1=0.9, lambda2=0.1, temperature=0.02)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize(("lambda2", "tiles"), [(0.0, 2), (0.1, 3)])
def test_backward_pass_skips_tiles_without_a_gradient(monkeypatch, lambda2, tiles):
    """Two domains have a tile each, and one for their pairs, which counts only with λ2."""
    similarity, computed = loss_module._exp_similarity, []
    z_a, z_b = views(8)
    loss = mdssl_loss(z_a, z_b, torch.arange(8) % 2, lambda1=0.9, lambda2=lambda2, temperature=0.1)
    monkeypatch.setattr(loss_module, "_exp_similarity", lambda *x: computed.append(x) or similarity(*x))
    loss.total.backward()
    assert len(computed) == tiles


def test_memory_does_not_grow_with_the_square_of_the_batch():
    """The saved tensors are vectors and the representations, never the similarity matrix."""
    saved = []
    z_a, z_b = views(1024, width=16, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        mdssl_loss(z_a, z_b, torch.arange(1024) % 4, lambda1=0.9, lambda2=0.1, temperature=0.1)
    assert max(saved) <= 2 * 1024 * 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lambda1": 0.0}, r"lambda1 is 0; it must lie in \(0, 1\]"),
        ({"lambda1": -0.9}, "what they call -0.9 is lambda1 = 0.9"),
        ({"lambda1": 1.1}, r"\(0, 1\]"),
        ({"lambda2": -0.1}, "lambda2 is -0.1; it must be at least 0"),
        ({"temperature": 0.01}, "temperature is 0.01; it must be at least 0.02"),
    ],
)
def test_weights_outside_their_range_are_refused(change, message):
    z_a, z_b = views(4)
    with pytest.raises(ValueError, match=message):
        mdssl_loss(
            z_a, z_b, torch.zeros(4, dtype=torch.long), **{"lambda1": 1.0, "lambda2": 0.0, "temperature": 0.1} | change
        )


@pytest.mark.parametrize(
    ("images", "domains", "said"),
    [
        (4, torch.zeros(3, dtype=torch.long), "domains torch.int64 (3,)"),
        (4, torch.zeros(4), "domains torch.float32 (4,)"),
        (4, [0, 0, 0, 0], "domains list"),
        (0, torch.zeros(0, dtype=torch.long), "domains torch.int64 (0,)"),
    ],
)
def test_a_batch_or_labels_without_a_loss_are_refused(images, domains, said):
    z_a, z_b = views(images)
    shape = f"torch.float64 ({images}, 8)"
    said = f"the loss got z_a {shape}, z_b {shape}, {said}; it takes tensors (B, r), (B, r) and (B,) integers"
    with pytest.raises(InputError, match=re.escape(said)):
        mdssl_loss(z_a, z_b, domains, lambda1=1.0, lambda2=0.0, temperature=0.1)


@pytest.mark.parametrize(("first", "second"), [((4, 8), (4, 7)), ((4, 8), (3, 8)), ((4, 2, 8), (4, 2, 8))])
def test_views_that_are_not_two_matrices_of_one_shape_are_refused(first, second):
    with pytest.raises(InputError, match="it takes tensors"):
        mdssl_loss(torch.ones(first), torch.ones(second), torch.arange(4), lambda1=1.0, lambda2=0.0, temperature=0.1)
