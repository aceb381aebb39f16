"""Measures of the representation space, compared with loops in float64, and as columns of a file of rows."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from factories import UNTRAINED, row
from scipy.special import i0

from mdssl.cli.main import main
from mdssl.evaluate import representations
from mdssl.leaderboard import board as leaderboard
from mdssl.leaderboard.columns import MEASURE_NAMES, SCHEMA
from mdssl.pretrain.loss import mdssl_loss
from mdssl.storage.location import Location
from mdssl.tables.compare import settings_of
from mdssl.tables.measures import add_measures, uniformity

DOMAINS = ["cifar10", "svhn"]
CLASSES = {"cifar10": 3, "svhn": 4, "stl10": 2}
TRIALS = {f"{number}" * 12: {"lambda2": lambda2, "seed": seed} for number, lambda2, seed in ((1, 0.1, 0), (2, 0.1, 1))}
TEMPERATURE = 0.2


def write_representations(storage: str, trial_id: str, seed: int) -> dict[str, representations.Layer]:
    """Write representations of three datasets and return their projections. The last class of svhn has no images."""
    random = np.random.default_rng(seed)
    found = {}
    for name, count in CLASSES.items():
        means, sample = random.normal(size=(count, 8)).astype("f4"), random.normal(size=(9, 8)).astype("f2")
        if name == "svhn":
            means[-1] = np.nan
        layers = {
            "encoder": representations.Layer(-means + 1, -sample + 1),
            "projection": representations.Layer(means, sample),
        }
        kept = representations.Representations(
            name, tuple("abcd"[:count]), layers, np.arange(9) % count, np.arange(9), ""
        )
        representations.write(Location.of(storage) / "trials" / trial_id, kept)
        found[name] = layers["projection"]
    return found


def write_neighbors(storage: str, trial_id: str, searched: list[str], name: str = "neighbors.json") -> None:
    own = {"cifar10": 0.75, "svhn": 0.5, "stl10": 0.25}
    datasets = {key: {"own_domain": share if key in searched else None} for key, share in own.items()}
    content = {"format": 1, "candidates": dict.fromkeys(searched, 1000), "datasets": datasets}
    Path(storage, "trials", trial_id, name).write_text(json.dumps(content))


def write_metrics(storage: str, trial_id: str, **columns) -> None:
    pd.DataFrame(columns).to_parquet(Path(storage, "trials", trial_id, "metrics.parquet"))


@pytest.fixture
def filled(storage) -> str:
    """Two trials with different seeds and all files, and an untrained encoder without files."""
    for number, (trial_id, settings) in enumerate(TRIALS.items()):
        scores = {"temperature": TEMPERATURE, **settings}
        rows = [row(name, **scores, top1=50.0, knn_top1=40.0 + number) for name in CLASSES]
        leaderboard.write_rows(storage, trial_id, rows)
        write_representations(storage, trial_id, number)
        write_neighbors(storage, trial_id, DOMAINS)
        write_metrics(storage, trial_id, step=[10, 20], alignment=[-2.0, -4.0 - number])
    leaderboard.write_rows(storage, "f" * 12, [row(name, **UNTRAINED) for name in CLASSES])
    return storage


def measures(storage: str, trial_id: str = "1" * 12, domains=DOMAINS) -> pd.DataFrame:
    """The measures of a trial by dataset."""
    found = add_measures(leaderboard.read(storage, trial_id=trial_id), storage, domains)
    return found.set_index("eval_dataset")[list(MEASURE_NAMES)]


def cosine(one, other) -> float:
    products = [sum(float(a) * float(b) for a, b in zip(x, y, strict=True)) for x, y in ((one, one), (other, other))]
    return sum(float(a) * float(b) for a, b in zip(one, other, strict=True)) / math.sqrt(products[0] * products[1])


def slow_mean(pairs) -> float:
    values = [cosine(one, other) for one, other in pairs]
    return sum(values) / len(values)


def test_similarities_match_loops_over_pairs_of_classes(filled):
    means = {name: layer.class_means for name, layer in write_representations(filled, "1" * 12, 0).items()}
    means["svhn"] = means["svhn"][:-1]
    found = measures(filled)
    for name, own in means.items():
        different = [(own[a], own[b]) for a in range(len(own)) for b in range(len(own)) if a != b]
        assert found.loc[name, "similarity_within"] == pytest.approx(slow_mean(different), abs=1e-12)
        others = [[(x, y) for x in own for y in means[domain]] for domain in DOMAINS if domain != name]
        across = sum(slow_mean(pairs) for pairs in others) / len(others)
        assert found.loc[name, "similarity_across"] == pytest.approx(across, abs=1e-12)


def test_uniformity_matches_a_loop_over_pairs_of_images(filled):
    layers = write_representations(filled, "1" * 12, 0)
    found = measures(filled)
    for name, layer in layers.items():
        rows = [[float(x) / math.hypot(*map(float, image)) for x in image] for image in layer.sample]
        kernels = [math.exp(-2 * math.dist(x, y) ** 2) for i, x in enumerate(rows) for y in rows[:i]]
        assert found.loc[name, "uniformity"] == pytest.approx(math.log(sum(kernels) / len(kernels)), abs=1e-12)


def test_uniformity_has_the_known_limits():
    n = 400
    angles = 2 * np.pi * np.arange(n) / n
    circle = np.stack([np.cos(angles), np.sin(angles)], 1) * np.random.default_rng(0).uniform(1, 9, (n, 1))
    # The mean of exp(4 cos θ - 4) over the circle, without the n pairs of a point with itself.
    assert uniformity(circle) == pytest.approx(math.log((n * i0(4) * math.exp(-4) - 1) / (n - 1)))
    # The mean over the sphere is (1 - exp(-8)) / 8; a Fibonacci lattice spreads points evenly on the sphere.
    height = 1 - (2 * np.arange(n) + 1) / n
    turn = np.pi * (3 - 5**0.5) * np.arange(n)
    around = np.sqrt(1 - height**2)
    sphere = np.stack([around * np.cos(turn), around * np.sin(turn), height], 1)
    assert uniformity(sphere) == pytest.approx(math.log((n * (1 - math.exp(-8)) / 8 - 1) / (n - 1)), abs=1e-3)
    assert uniformity(np.outer(np.arange(1, 4), [3.0, 4.0])) == pytest.approx(0)
    assert uniformity(np.array([[1.0, 0], [-1, 0]])) == pytest.approx(-8)
    assert math.isnan(uniformity(np.ones((1, 2))))


def logged(z_a: torch.Tensor, z_b: torch.Tensor) -> float:
    """The alignment that training logs."""
    domains = torch.arange(len(z_a)) % 3 % 2
    return mdssl_loss(z_a, z_b, domains, lambda1=0.9, lambda2=0.1, temperature=TEMPERATURE).alignment.item()


def test_alignment_is_the_mean_squared_distance_of_the_two_views_of_an_image(filled):
    generator = torch.Generator().manual_seed(0)
    z_a, z_b = torch.randn(2, 11, 8, generator=generator, dtype=torch.float64)
    write_metrics(filled, "1" * 12, step=[10], alignment=[logged(z_a, z_b)])
    distances = []
    for one, other in zip(z_a.tolist(), z_b.tolist(), strict=True):
        one, other = ([x / math.hypot(*view) for x in view] for view in (one, other))
        distances.append(math.dist(one, other) ** 2)
    assert measures(filled)["alignment"].tolist() == pytest.approx([sum(distances) / len(distances)] * 3, abs=1e-12)
    write_metrics(filled, "1" * 12, step=[10], alignment=[logged(z_a, 3 * z_a)])
    assert measures(filled)["alignment"].tolist() == pytest.approx([0] * 3, abs=1e-12)


def test_alignment_is_averaged_over_the_last_tenth_of_the_steps(filled):
    steps, terms = [10, 90, 97, 110, 120], [-1.0, -1.5, -2.0, -3.0, -4.5]
    write_metrics(filled, "1" * 12, step=steps, alignment=terms)
    by_step = [term for term, start, end in zip(terms, [0, *steps], steps, strict=False) for _ in range(start, end)]
    expected = 2 + 2 * TEMPERATURE * sum(by_step[-12:]) / 12
    assert measures(filled)["alignment"].iloc[0] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["neighbors.json", "neighbours.json"])
def test_own_neighbors_require_a_search_over_the_compared_domains_only(filled, name):
    Path(filled, "trials", "1" * 12, "neighbors.json").unlink()
    write_neighbors(filled, "1" * 12, DOMAINS, name)
    assert measures(filled)["neighbors_own"].fillna(-1).to_dict() == {"cifar10": 75.0, "svhn": 50.0, "stl10": -1.0}
    write_neighbors(filled, "1" * 12, list(CLASSES), name)
    assert measures(filled)["neighbors_own"].isna().all()


def test_missing_files_give_missing_values_only_for_their_measures(filled):
    assert measures(filled, "f" * 12).isna().all(axis=None)
    folder = Path(filled, "trials", "1" * 12)
    whole = measures(filled)
    (folder / "representations" / "svhn.safetensors").unlink()
    (folder / "metrics.parquet").unlink()
    found = measures(filled)
    assert found["alignment"].isna().all() and found.loc["svhn", ["similarity_within", "uniformity"]].isna().all()
    assert found["similarity_across"].isna().all()
    pd.testing.assert_series_equal(found["neighbors_own"], whole["neighbors_own"])
    assert found.loc["stl10", "uniformity"] == whole.loc["stl10", "uniformity"]
    write_metrics(filled, "1" * 12)
    assert measures(filled)["alignment"].isna().all()


@pytest.mark.parametrize("name", ["representations/svhn.safetensors", "metrics.parquet", "neighbors.json"])
@pytest.mark.parametrize("content", [b"", b"[1]", b'{"candidates": {"cifar10": 1, "svhn": 1}, "datasets": 0}'])
def test_a_damaged_file_is_refused_by_name(filled, name, content):
    Path(filled, "trials", "1" * 12, name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{'1' * 12}/{name} (is damaged|cannot be read)"):
        measures(filled)


def test_marked_dataset_names_refer_to_the_same_files(filled):
    board = leaderboard.read(filled, trial_id="1" * 12).replace({"eval_dataset": {"svhn": "svhn (4,434 of 73,257)"}})
    found = add_measures(board, filled, ["cifar10", "svhn (4,434 of 73,257)"])
    np.testing.assert_array_equal(found[list(MEASURE_NAMES)], measures(filled))


@pytest.fixture
def study(filled, tmp_path) -> str:
    """A file of rows with measures."""
    add_measures(leaderboard.read(filled), filled, DOMAINS).to_parquet(tmp_path / "study.parquet", index=False)
    return str(tmp_path / "study.parquet")


def test_a_file_of_rows_keeps_measures_and_can_be_written_to_a_storage(filled, study, tmp_path):
    expected = add_measures(leaderboard.read(filled), filled, DOMAINS)
    found = leaderboard.read(study)
    pd.testing.assert_frame_equal(found.drop(columns="checkpoint"), expected.drop(columns="checkpoint"))
    assert not set(MEASURE_NAMES) & set(settings_of(leaderboard.with_settings(found)))
    for trial_id, rows in leaderboard.read_rows_of(study, set(found["trial_id"])).items():
        leaderboard.write_rows(tmp_path / "other", trial_id, rows)
    assert list(leaderboard.read(str(tmp_path / "other")).columns) == SCHEMA.names


def test_a_file_of_an_earlier_version_may_have_only_some_measures(study):
    later = ["top1_sd", "balanced_accuracy", "macro_f1"]
    rows = pd.read_parquet(study).drop(columns=[*later, "alignment"]).assign(schema_version=3)
    rows.to_parquet(study, index=False)
    found = leaderboard.read(study)
    assert list(found.columns) == [*SCHEMA.names, *(name for name in MEASURE_NAMES if name != "alignment")]
    assert found["uniformity"].tolist() == pytest.approx(rows["uniformity"].tolist(), nan_ok=True)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: rows.assign(mine=1.0), r"its columns differ \(mine\)"),
        (lambda rows: rows.assign(uniformity="low"), "a column has another type"),
    ],
)
def test_a_file_of_rows_with_unknown_columns_or_wrong_types_is_refused(study, change, why):
    change(pd.read_parquet(study)).to_parquet(study, index=False)
    with pytest.raises(ValueError, match=f"study.parquet is not a leaderboard file: {why}"):
        leaderboard.read(study)


def table(capsys, storage: str, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["leaderboard", "--storage", storage, *arguments, "--format", "csv"]) == 0
    return capsys.readouterr().out


def test_the_leaderboard_command_averages_measures_of_a_file_and_of_a_folder(filled, study, capsys):
    flags = "--method mdssl --columns lambda2 similarity_across alignment --over-seeds --where eval_dataset=svhn"
    text = table(capsys, study, *flags.split())
    header, values = (line.split(",") for line in text.split())
    found = dict(zip(header, map(float, values), strict=True))
    own = pd.concat([measures(filled, trial_id) for trial_id in TRIALS]).loc["svhn"]
    for name in ("similarity_across", "alignment"):
        assert found[f"{name}_mean"] == pytest.approx(own[name].mean())
        # 12.706 is Student's t for two seeds, from a table.
        half = 12.706 * own[name].std() / 2**0.5
        assert [found[f"{name}_low"], found[f"{name}_high"]] == pytest.approx(
            [own[name].mean() - half, own[name].mean() + half], rel=1e-3
        )
    assert table(capsys, filled, *flags.split()) == text


def test_the_average_of_a_measure_is_over_the_datasets(filled, study, capsys):
    text = table(capsys, study, "--columns", "trial_id", "uniformity", "--pivot", "eval_dataset", "--method", "mdssl")
    found = dict(zip(*(line.split(",") for line in text.split()[:2]), strict=True))
    assert float(found["average"]) == pytest.approx(measures(filled)["uniformity"].mean())


def test_the_leaderboard_command_gives_advice_if_measures_are_missing(filled, study, capsys):
    pd.read_parquet(study).drop(columns=list(MEASURE_NAMES)).to_parquet(study, index=False)
    flags = ["leaderboard", "--columns", "trial_id", "uniformity", "--storage"]
    assert main([*flags, study]) == 2
    assert "has no columns similarity_within, similarity_across" in (message := capsys.readouterr().err)
    assert "mdssl.tables.measures.add_measures computes them" in message
    leaderboard.write_rows(filled, "3" * 12, [row("dtd", train_mixture="dtd+svhn")])
    assert main([*flags, filled]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "there are 2: cifar10+svhn, dtd+svhn. Keep one with --train-mixture" in message
    assert main([*flags, filled, "--train-mixture", "cifar10+svhn"]) == 0
