import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from mdssl.evaluate import knn
from mdssl.evaluate.knn import knn_top1


@pytest.fixture
def noisy(digits):
    """Digits under enough noise that neighbours disagree."""
    generator = torch.Generator().manual_seed(0)
    train_x, train_y, test_x, test_y = digits
    noise = [7 * torch.randn(part.shape, generator=generator) for part in (train_x, test_x)]
    return train_x + noise[0], train_y, test_x + noise[1], test_y


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (200, 0.07), (1200, 0.05)])
def test_knn_is_scikit_learns_with_weighted_cosine(noisy, k, temperature):
    train_x, train_y, test_x, test_y = (part.numpy() for part in noisy)
    peer = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    expected = 100 * peer.fit(train_x.astype(float), train_y).score(test_x.astype(float), test_y)
    assert 40 < expected < 95
    # Where float32 and float64 disagree on the order of near-equal neighbours, one row of 597 may fall otherwise.
    found = knn_top1(*noisy, 10, k=k, temperature=temperature)
    assert found == pytest.approx(expected, abs=0.2)
    assert type(found) is float


def test_chunks_change_nothing(noisy, monkeypatch):
    whole = knn_top1(*noisy, 10)
    monkeypatch.setattr(knn, "_CHUNK_NUMBERS", 10_000)
    assert knn_top1(*noisy, 10) == whole


def test_memory_stays_within_the_chunk(noisy, monkeypatch):
    monkeypatch.setattr(knn, "_CHUNK_NUMBERS", 12_000)
    sizes = []
    monkeypatch.setattr(
        torch.Tensor, "topk", lambda x, *args, **kw: sizes.append(x.numel()) or torch.topk(x, *args, **kw)
    )
    knn_top1(*noisy, 10)
    assert len(sizes) == 60
    assert max(sizes) == 12_000


def test_a_small_temperature_leaves_the_vote_to_the_nearest(noisy):
    assert knn_top1(*noisy, 10, k=20, temperature=1e-4) == knn_top1(*noisy, 10, k=1)


def test_the_length_of_features_does_not_matter(noisy):
    train_x, train_y, test_x, test_y = noisy
    lengths = torch.linspace(0.1, 10, len(train_x))[:, None]
    assert knn_top1(train_x * lengths, train_y, test_x * 5, test_y, 10) == knn_top1(*noisy, 10)


def test_more_neighbours_than_training_images_are_refused(digits):
    train_x, train_y, test_x, test_y = digits
    with pytest.raises(ValueError, match=r"knn_neighbors is 20; it must be from 1 to 19.*lower knn_neighbors"):
        knn_top1(train_x[:19], train_y[:19], test_x, test_y, 10, k=20)


def test_a_temperature_that_is_not_positive_is_refused(digits):
    with pytest.raises(ValueError, match="temperature is 0"):
        knn_top1(*digits, 10, temperature=0)


def test_features_that_are_not_finite_are_refused(digits):
    train_x, train_y, test_x, test_y = digits
    with pytest.raises(ValueError, match="training features of 1200 of 1200"):
        knn_top1(train_x * torch.nan, train_y, test_x, test_y, 10)
