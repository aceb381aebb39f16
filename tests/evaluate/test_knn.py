import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from mdssl.evaluate import knn
from mdssl.evaluate.classifier import Parts


def knn_top1(*parts, **settings):
    return knn.knn_top1(Parts(*parts), **settings)


@pytest.fixture
def noisy(digits):
    """Digits with enough noise that neighbors disagree."""
    generator = torch.Generator().manual_seed(0)
    train_x, train_y, test_x, test_y = digits
    noise = [7 * torch.randn(part.shape, generator=generator) for part in (train_x, test_x)]
    return train_x + noise[0], train_y, test_x + noise[1], test_y


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (200, 0.07), (1200, 0.05)])
def test_knn_matches_scikit_learn_with_weighted_cosine_distance(noisy, k, temperature):
    train_x, train_y, test_x, test_y = (part.numpy() for part in noisy)
    peer = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    expected = 100 * peer.fit(train_x.astype(float), train_y).score(test_x.astype(float), test_y)
    assert 40 < expected < 95
    # float32 and float64 may order near-equal neighbors differently, which can change one row of 597.
    found = knn_top1(*noisy, 10, k=k, temperature=temperature)
    assert found == pytest.approx(expected, abs=0.2)
    assert type(found) is float


def test_the_chunk_size_does_not_change_the_score(noisy, monkeypatch):
    whole = knn_top1(*noisy, 10)
    monkeypatch.setattr(knn, "_CHUNK_NUMBERS", 10_000)
    assert knn_top1(*noisy, 10) == whole


def test_similarity_matrices_stay_within_the_chunk_size(noisy, monkeypatch):
    monkeypatch.setattr(knn, "_CHUNK_NUMBERS", 12_000)
    sizes = []
    monkeypatch.setattr(
        torch.Tensor, "topk", lambda x, *args, **kw: sizes.append(x.numel()) or torch.topk(x, *args, **kw)
    )
    knn_top1(*noisy, 10)
    assert len(sizes) == 60
    assert max(sizes) == 12_000


def test_a_small_temperature_matches_the_nearest_neighbor(noisy):
    assert knn_top1(*noisy, 10, k=20, temperature=1e-4) == knn_top1(*noisy, 10, k=1)


def test_the_default_temperature_is_that_of_wu_et_al():
    """It is 0.07: three neighbors at a cosine of 1 - 0.07 ln 3 weigh as much as one at a cosine of 1."""
    even = 1 - 0.07 * np.log(3)
    for cosine, winner in ((even + 1e-3, 1), (even - 1e-3, 0)):
        train_x = torch.tensor([[1.0, 0.0], *[[cosine, np.sqrt(1 - cosine**2)]] * 3], dtype=torch.float32)
        test_x, train_y = torch.tensor([[1.0, 0.0]] * 2), torch.tensor([0, 1, 1, 1])
        assert knn_top1(train_x, train_y, test_x, torch.tensor([winner] * 2), 2, k=4) == 100


def test_the_norm_of_features_does_not_change_the_score(noisy):
    train_x, train_y, test_x, test_y = noisy
    lengths = torch.linspace(0.1, 10, len(train_x))[:, None]
    assert knn_top1(train_x * lengths, train_y, test_x * 5, test_y, 10) == knn_top1(*noisy, 10)


def test_more_neighbors_than_training_images_are_refused(digits):
    train_x, train_y, test_x, test_y = digits
    for k in (0, 20):
        with pytest.raises(ValueError, match=rf"knn_neighbors is {k}; it must be from 1 to 19.*lower knn_neighbors"):
            knn_top1(train_x[:19], train_y[:19], test_x, test_y, 10, k=k)


def test_a_temperature_that_is_not_positive_is_refused(digits):
    with pytest.raises(ValueError, match="temperature is 0"):
        knn_top1(*digits, 10, temperature=0)


def test_features_that_are_not_finite_are_refused(digits):
    train_x, train_y, test_x, test_y = digits
    with pytest.raises(ValueError, match="training features of 1200 of 1200"):
        knn_top1(train_x * torch.nan, train_y, test_x, test_y, 10)
