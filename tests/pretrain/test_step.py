"""One training step: batches and views do not depend on λ, the method or the number of workers, and all ways to encode
give the same gradients."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factories import tiny_trial

from mdssl.config.run import RunSettings, check_gradient_caching
from mdssl.data.mixture import Group, Mixture, check_batch
from mdssl.errors import InputError
from mdssl.pretrain.loop import train
from mdssl.pretrain.model import build_model
from mdssl.pretrain.pseudo_domains import groups_of
from mdssl.pretrain.step import backward_at_once, backward_by_domain, by_domain, by_view, loss_of, two_views


def load(data, trial):
    return Mixture.load(data, trial.domains, batch_per_domain=trial.batch_per_domain, device="cpu")


def views_of(mixture, trial, *, step=0, rank=0, workers=1, groups=None):
    groups = groups or mixture.domains
    return two_views(trial, mixture, groups, step, [group.share(rank, workers) for group in groups])


def test_batches_and_views_do_not_depend_on_lambda_or_method(tiny_data):
    views = []
    for change in ({}, {"lambda2": 0.0}, {"method": "simclr", "lambda1": 1.0, "lambda2": 0.0}):
        trial = tiny_trial(**change)
        views.append(views_of(load(tiny_data, trial), trial, step=5))
    assert torch.equal(views[0], views[1])
    assert torch.equal(views[0], views[2])


@pytest.mark.parametrize("method", ["mdssl", "mdssl-shuffled"])
def test_views_of_workers_are_the_parts_of_one_batch(tiny_data, method):
    trial = tiny_trial(method=method, batch_per_domain=7)
    mixture = load(tiny_data, trial)
    whole = views_of(mixture, trial, step=2).unflatten(0, (2, 2, 7))
    parts = [views_of(mixture, trial, step=2, rank=rank, workers=3).unflatten(0, (2, 2, -1)) for rank in range(3)]
    torch.testing.assert_close(torch.cat(parts, dim=2), whole)


def test_shuffled_domain_labels_are_drawn_uniformly_in_each_step():
    # The shade of an image identifies its domain: no augmentation changes the shade of a uniform image.
    images = tuple(torch.full((size, 4, 4, 3), shade, dtype=torch.uint8) for size, shade in ((90, 0), (30, 250)))
    mixture = Mixture(("dark", "light"), images, 8)
    found = {}
    for method in ("mdssl", "mdssl-shuffled"):
        trial = tiny_trial(method=method, domains=mixture.names, batch_per_domain=8, sampling="proportional")
        trial = replace(trial, jitter_strength=0.0, blur_probability=0.0)
        groups = groups_of(trial, mixture, None)
        assert [group.batch for group in groups] == [12, 4]
        views = torch.stack([views_of(mixture, trial, step=step, groups=groups) for step in range(60)])
        found[method] = (views.mean((2, 3, 4)) > 0).unflatten(1, (2, 16))
    labelled, shuffled = found.values()
    assert labelled[:, :, 12:].all() and not labelled[:, :, :12].any()
    assert torch.equal(shuffled[:, 0], shuffled[:, 1]), "both views of an image have the same label"
    assert (shuffled.sum(2) == 4).all(), "shuffling keeps the number of images of each domain"
    assert ((shuffled.float().mean((0, 1)) - 0.25).abs() < 4 * (0.25 * 0.75 / 60) ** 0.5).all()
    assert len(shuffled[:, 0].unique(dim=0)) > 50


@pytest.mark.parametrize(
    ("method", "first"), [("mdssl", [6, 3, 8, 10, 20, 16]), ("mdssl-shuffled", [10, 16, 6, 3, 20, 8])]
)
def test_steps_of_an_epoch_have_each_image_once_and_tell_the_next_batch(method, first):
    groups, drawn, told = [Group(name, np.arange(8) + 8 * i, 2) for i, name in enumerate("abc")], [], []

    def gather(rows, then):
        drawn.append(rows.tolist())
        told.append(then().tolist())
        return torch.zeros(len(rows), 4, 4, 3, dtype=torch.uint8)

    mixture, trial = SimpleNamespace(gather=gather, image_size=4), tiny_trial(method=method, seed=5)
    for step in range(4):
        views_of(mixture, trial, step=step, groups=groups)
    assert told[:-1] == drawn[1:]
    assert sorted(np.concatenate(drawn)) == list(range(24))
    # Every version draws these images. Otherwise a trial would not resume to the same encoder.
    assert drawn[0] == first


def test_gather_indexes_the_concatenated_images_of_all_domains(tiny_data):
    mixture = load(tiny_data, tiny_trial())
    everything = torch.cat(mixture.images)
    rows = np.random.default_rng(0).permutation(len(everything))
    assert torch.equal(mixture.gather(rows), everything[torch.from_numpy(rows)])
    assert mixture.labels.tolist() == [0] * 64 + [1] * 64
    assert [len(group.rows) for group in mixture.domains] == [64, 64]
    assert (mixture.union(20).batch, len(mixture.union(20).rows)) == (20, 128)


def test_batch_per_domain_is_at_most_the_size_of_the_smallest_domain(tiny_data):
    assert load(tiny_data, tiny_trial(batch_per_domain=64)).batch == 128
    with pytest.raises(InputError, match="is 65, but domain 'tiny-a' has 64 training images; use at most 64"):
        load(tiny_data, tiny_trial(batch_per_domain=65))


def test_images_of_different_sizes_are_refused():
    datasets = [SimpleNamespace(name=f"of {size}", image_size=size, pretraining_count=8) for size in (16, 16, 32)]
    with pytest.raises(InputError, match="'of 32' has images of 32 pixels, 'of 16' of 16"):
        check_batch(datasets, 8)


@pytest.mark.parametrize("seed", range(50))
def test_proportional_sampling_keeps_the_batch_size_and_draws_images_equally_often(seed):
    rng = np.random.default_rng(seed)
    sizes, batch = rng.integers(8, 300, size=rng.integers(1, 6)).tolist(), int(rng.integers(2, 9))
    images = tuple(torch.zeros(size, 1, 1, 3, dtype=torch.uint8) for size in sizes)
    mixture = Mixture(tuple(map(str, range(len(sizes)))), images, batch)
    found = np.array([group.batch for group in mixture.in_proportion()])
    exact = np.array(sizes) * len(sizes) * batch / sum(sizes)
    assert found.sum() == len(sizes) * batch and found.min() >= 2
    # Each domain has at least two images in a batch, at the expense of the larger domains.
    assert (np.abs(found - exact) < 1 + np.maximum(2 - exact, 0).sum()).all()
    assert (found <= sizes).all()
    if exact.min() >= 2:
        # The largest remainders are rounded up.
        remainder, is_up = exact - np.floor(exact), found > np.floor(exact)
        assert remainder[is_up].min(initial=1) >= remainder[~is_up].max(initial=0)
    assert mixture.image_size == 1


@pytest.mark.parametrize(
    ("method", "sampling", "batches"),
    [
        ("mdssl", "balanced", {"big": 8, "small": 8}),
        ("mdssl", "proportional", {"big": 12, "small": 4}),
        ("simclr", "balanced", {"big": 8, "small": 8}),
        ("simclr", "proportional", {"small+big": 16}),
        ("simclr-weighted", "proportional", {"big": 12, "small": 4}),
        ("mdssl-clustered", "proportional", {"small+big": 16}),
    ],
)
def test_sampling_sets_the_batch_size_of_each_domain(method, sampling, batches):
    # In this order, because of equal remainders the first would get one image too many.
    images = tuple(torch.zeros(size, 1, 1, 3, dtype=torch.uint8) for size in (20, 60))
    mixture = Mixture(("small", "big"), images, 8)
    weights = {"lambda1": 1.0, "lambda2": 0.0} if method.startswith("simclr") else {}
    trial = tiny_trial(
        method=method, sampling=sampling, domains=mixture.names, num_clusters=2, warmup_iterations=1, **weights
    )
    assert {group.name: group.batch for group in groups_of(trial, mixture, None)} == batches


def test_epoch_draws_each_image_at_most_once_in_its_own_order():
    group = Group("tiny", np.arange(100, 164), batch=20)
    epochs = [[row for step in range(3 * epoch, 3 * epoch + 3) for row in group.drawn(0, step)] for epoch in range(2)]
    assert all(len(set(epoch)) == 60 and set(epoch) <= set(range(100, 164)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    # Batches of all versions, so that a trial ID stands for one encoder.
    assert Group("tiny", np.arange(9), batch=3).drawn(seed=1, step=4).tolist() == [1, 6, 0]


def test_domains_of_equal_size_have_different_orders():
    drawn = [Group(name, np.arange(64), batch=64).drawn(0, 0).tolist() for name in ("tiny-a", "tiny-b")]
    assert sorted(drawn[0]) == sorted(drawn[1]) and drawn[0] != drawn[1]
    assert Group("tiny-a", np.arange(64), batch=64).drawn(1, 0).tolist() != drawn[0], "another seed gives another order"


def test_simclr_on_a_union_differs_from_mdssl_without_an_across_term(tiny_data):
    totals = []
    for change in ({"method": "simclr"}, {"method": "mdssl"}):
        trial = tiny_trial(**change, lambda1=1.0, lambda2=0.0)
        views = views_of(load(tiny_data, trial), trial)
        totals.append(backward_at_once(trial, build_model(trial), views, [[8, 8]]).total)
    assert totals[0] > totals[1] + 0.1, "the union has more negatives"


def test_by_domain_joins_both_views_of_a_group_and_by_view_inverts_it():
    # Each number is ten times the group plus the view.
    rows = torch.tensor([0, 0, 10, 20, 20, 20, 1, 1, 11, 21, 21, 21])
    assert by_domain(rows, [2, 1, 3]).tolist() == [0, 0, 1, 1, 10, 11, 20, 20, 20, 21, 21, 21]
    assert torch.equal(by_view(by_domain(rows, [2, 1, 3]), [2, 1, 3]), rows)


RAGGED = (Group("few", np.arange(3), 3), Group("many", np.arange(3, 128), 8), Group("one", np.arange(128, 130), 1))


def gradients(trial, data, backward, *, groups=None):
    mixture = load(data, trial)
    model = build_model(trial).double()
    views = views_of(mixture, trial, groups=groups).double()
    loss = backward(trial, model, views, [[group.batch for group in groups or mixture.domains]])
    return loss, model


def assert_same_gradients(expected, found):
    for (name, first), second in zip(expected.named_parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(second.grad, first.grad, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("groups", [None, RAGGED], ids=["equal", "ragged"])
def test_joint_per_domain_and_cached_gradients_are_equal_without_batch_norm(tiny_data, groups):
    trial = tiny_trial(norm="group", domains=("tiny-a", "tiny-b", "tiny-c"))
    per_domain = tiny_trial(norm="group", domains=trial.domains, batching="per-domain")
    loss, joint = gradients(trial, tiny_data, backward_at_once, groups=groups)
    for other, backward in ((per_domain, backward_at_once), (trial, backward_by_domain)):
        found, model = gradients(other, tiny_data, backward, groups=groups)
        torch.testing.assert_close(torch.stack(found), torch.stack(loss), rtol=1e-9, atol=1e-9)
        assert_same_gradients(joint, model)


def test_cached_gradients_and_batch_norm_statistics_equal_per_domain_passes(tiny_data):
    trial = tiny_trial(batching="per-domain", domains=("tiny-a", "tiny-b", "tiny-c"))
    loss, model = gradients(trial, tiny_data, backward_at_once)
    found, cached = gradients(trial, tiny_data, backward_by_domain)
    torch.testing.assert_close(torch.stack(found), torch.stack(loss), rtol=1e-9, atol=1e-9)
    assert_same_gradients(model, cached)
    statistics = {name: buffer for name, buffer in cached.named_buffers() if "running" in name or "tracked" in name}
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(statistics[name], buffer, msg=name)


def test_gradient_caching_requires_per_domain_batching_or_group_norm():
    caching = RunSettings(gradient_caching=True)
    with pytest.raises(ValueError, match="use --batching per-domain, or --norm group"):
        check_gradient_caching(tiny_trial(), caching)
    with pytest.raises(ValueError, match=r"use --batching per-domain\.$"):  # norm is 'batch' for networks of timm
        check_gradient_caching(tiny_trial(arch="timm/test_convnext"), caching)
    with pytest.raises(ValueError, match="use --batching per-domain"):
        train(tiny_trial(), data="", trial_dir="unused", settings=caching)
    check_gradient_caching(tiny_trial(batching="per-domain"), caching)
    check_gradient_caching(tiny_trial(norm="group"), caching)


@pytest.mark.slow
def test_memory_of_cached_gradients_does_not_grow_with_the_number_of_domains():
    """Counts the tensors that autograd saves for the backward pass, by autograd's hooks."""

    def kept(count, backward):
        trial = tiny_trial(batching="per-domain")
        sizes = []
        total = peak = 0

        def pack(tensor):
            nonlocal total, peak
            total += tensor.nbytes
            peak = max(peak, total)
            sizes.append(tensor.nbytes)
            return tensor

        def unpack(tensor):
            nonlocal total
            total -= tensor.nbytes
            return tensor

        views = torch.randn(2 * 4 * count, 3, 16, 16)
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            backward(trial, build_model(trial), views, [[4] * count])
        return peak

    assert kept(8, backward_at_once) > 3.5 * kept(2, backward_at_once)
    assert kept(8, backward_by_domain) < 1.2 * kept(2, backward_by_domain)


def test_loss_of_labels_rows_by_their_group():
    trial = tiny_trial()
    z = torch.randn(2 * 5, 8, dtype=torch.float64)
    apart = loss_of(trial, z, [[2, 3]])
    as_one = loss_of(tiny_trial(method="simclr", lambda1=1.0, lambda2=0.0), z, [[2, 3]])
    assert apart.across != 0
    assert as_one.across == 0
    torch.testing.assert_close(as_one.alignment, apart.alignment)
