"""Neighbors of an image: the search is exact, the sheet shows the images, and the output describes them."""

import re
from functools import partialmethod
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mdssl.cli.main import main
from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.data.prepare import prepare
from mdssl.evaluate.features import extract_features
from mdssl.evaluate.neighbors import search, show
from mdssl.evaluate.neighbors.search import Match, Picture, Pictures, nearest
from mdssl.evaluate.neighbors.sheet import COLORS, neighbor_sheet
from mdssl.evaluate.sampling import sample_rows
from mdssl.pretrain.loop import train

ESCAPE = "\x1b[2J"

pytestmark = pytest.mark.usefixtures("full_encoders")


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Domains left and right, each with 60 training images of noise; test images copy the training images 0 to 9.
    Domain wide has the images of right, enlarged."""
    folder = tmp_path_factory.mktemp("planted")
    for seed, name in enumerate(("left", "right")):
        rng = np.random.default_rng(seed)
        images = rng.integers(256, size=(60, 16, 16, 3), dtype=np.uint8)
        labels = np.arange(60) % 3
        source = folder / f"{name}.npz"
        np.savez(source, train_images=images, train_labels=labels, test_images=images[:10], test_labels=labels[:10])
        prepare(name, data=folder / "data", source=source, image_size=16, workers=1, progress=False)
    prepare("wide", data=folder / "data", source=source, image_size=24, workers=1, progress=False)
    return folder / "data"


@pytest.fixture(scope="module")
def storage(data, tmp_path_factory):
    """A storage with one untrained encoder."""
    folder = tmp_path_factory.mktemp("results")
    config = TrialConfig(method="random", arch="resnet18")
    train(config, data=data, trial_dir=folder / "trials" / config.trial_id, device="cpu")
    return folder


@pytest.fixture(scope="module")
def trial_id(storage):
    return next((storage / "trials").iterdir()).name


def test_the_search_matches_a_brute_force_loop(data):
    """Sums of multiples of 1/32 are exact, so some images are equally near; these are in the candidates' order."""
    rng = np.random.default_rng(0)
    pools = [
        Pictures(open_dataset(data, name), "train", np.arange(40)[::-1], rng.integers(-9, 10, (6, 5))[drawn] / 32)
        for name, drawn in zip(("left", "right"), rng.integers(6, size=(2, 40)), strict=True)
    ]
    asked = rng.integers(-9, 10, (7, 5)) / 32
    queries = [Picture(f"{number}.png", "", -1, "", None) for number in range(7)]
    for match, direction in zip(nearest(queries, asked, pools, 30), asked, strict=True):
        slow = [(-float(pool.directions[at] @ direction), pool[at].place) for pool in pools for at in range(40)]
        slow.sort(key=lambda found: found[0])
        assert [picture.place for picture in match.neighbors] == [place for _, place in slow[:30]]
        np.testing.assert_allclose(match.similarities, [-distance for distance, _ in slow[:30]])


@pytest.mark.parametrize("layer", ["encoder", "projection"])
def test_directions_of_rows_are_normalized_features_in_any_chunks(tiny_model, data, monkeypatch, layer):
    monkeypatch.setattr(search, "_CHUNK_IMAGES", 3)
    images, rows, told = open_dataset(data, "left").split("train").images, np.array([8, 1, 30, 5, 2, 7, 4]), []
    found = search.encode_rows(tiny_model, images, rows, layer=layer, input_size=12, advance=told.append)
    whole = extract_features(tiny_model, images, layers=(layer,), input_size=12)[layer]
    np.testing.assert_allclose(found, torch.nn.functional.normalize(whole)[rows], rtol=1e-5, atol=1e-6)
    assert told == [3, 3, 1]


def test_samples_follow_the_seed_and_queries_are_resized_like_candidates(
    data, storage, trial_id, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(show, "nearest", lambda *arguments: seen.append(arguments) or nearest(*arguments))
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.png")
    flags = ["--trial-id", trial_id, "--storage", storage, "--data", data, "--output", tmp_path / "n.png"]
    run("neighbors", "wide:test", tmp_path / "a.png", *flags, "--among", "left", "--sample", 20, "--seed", 1)
    ((queries, _, (candidates,), count),) = seen
    labels = np.arange(60) % 3
    assert [query.row for query in queries] == [*sample_rows("wide", "test", labels[:10], 4, seed=1), -1]
    assert {query.image.shape for query in queries} == {(16, 16, 3)}
    assert (candidates.rows == sample_rows("left", "train", labels, 20, seed=1)).all() and count == 10


def test_a_copy_of_the_query_is_the_first_neighbor(data, storage, trial_id, tmp_path, capsys):
    asked = [f"left:test:{row}" for row in range(3)] + ["right:test:7"]
    flags = ["--trial-id", trial_id, "--storage", storage, "--data", data, "--output", tmp_path / "n.png"]
    run("neighbors", *asked, *flags, "--among", "left", "right", "--neighbors", 5)
    lines = capsys.readouterr().out.splitlines()
    for line, domain, label in zip(lines, ["left", "left", "left", "right"], "0121", strict=False):
        assert re.search(rf"nearest first: {label} of {domain} \(1\.00\)", line), line
        said, listed = line.split("; nearest first")
        assert re.match(rf"{domain}:test:\d \({label}\): ", said)
        for name in ("left", "right"):
            count = listed.count(f" of {name} (")
            assert (not count and name not in said.split(": ")[1]) or re.search(
                rf"{count} (of 5 neighbors are )?from {name}", said
            )
    assert "60 of 60 training images of left, 60 of 60 training images of right" in lines[4]


def test_the_british_spelling_is_an_alias(data, storage, trial_id, tmp_path, capsys):
    flags = ["--trial-id", trial_id, "--storage", storage, "--data", data, "--output", tmp_path / "n.png"]
    run("neighbours", "left:test:1", *flags, "--among", "left", "--neighbours", 3)
    assert "of 3 neighbors are from left" in capsys.readouterr().out


def test_four_images_of_a_split_are_shown_by_default(data, storage, trial_id, tmp_path, capsys):
    flags = ["--trial-id", trial_id, "--storage", storage, "--data", data, "--output", tmp_path / "n.png"]
    run("neighbors", "left:test", *flags, "--among", "left")
    said = capsys.readouterr().out
    assert said.count("nearest first") == 4
    rows = sample_rows("left", "test", open_dataset(data, "left").split("test").labels, 4)
    assert [int(row) for row in re.findall(r"^left:test:(\d+)", said, re.M)] == list(rows)


def test_a_training_image_is_not_its_own_neighbor(data, storage, trial_id, tmp_path, capsys):
    flags = ["--trial-id", trial_id, "--storage", storage, "--data", data, "--output", tmp_path / "n.png"]
    run("neighbors", "left:train:3", *flags, "--among", "left")
    assert "(1.00)" not in capsys.readouterr().out


def test_image_files_of_any_format_find_the_image_they_show(data, storage, trial_id, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = open_dataset(data, "right").split("train").images[30]
    Image.fromarray(pixels).save("right:test", "PNG")
    Image.fromarray(pixels).convert("RGBA").save("alpha.png")
    Image.fromarray(pixels).save("image.webp", lossless=True)
    Image.fromarray(pixels).convert("CMYK").save("cmyk.tif")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save("grey16.png")
    files = ["right:test", "alpha.png", "image.webp", "cmyk.tif", "grey16.png"]
    flags = ["--trial-id", trial_id, "--storage", storage, "--data", data, "--among", "left", "right"]
    run("neighbors", *files, *flags)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines[:5]] == files, "a file takes precedence over a dataset of its name"
    assert all("0 of right (1.00)" in line for line in lines[:4])
    assert Image.open("neighbors.png").width > 900


def test_a_file_of_weights_needs_no_trial(data, storage, trial_id, tmp_path, capsys):
    weights = storage / "trials" / trial_id / "encoder.safetensors"
    flags = ["--weights", weights, "--data", data, "--output", tmp_path / "n.png", "--storage", tmp_path / "none"]
    run("neighbors", "left:test:4", *flags, "--among", "left", "wide", "--input-size", 24)
    assert "1 of left (1.00)" in capsys.readouterr().out
    assert [file.name for file in tmp_path.iterdir()] == ["n.png"]
    flags = [*map(str, flags), "--among", "left"]
    assert main(["neighbors", "left:test:4", *flags, "--features", "projection"]) == 2
    assert "a pretrained encoder has no projection head" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([], "no image is given"),
        (["nowhere.png"], "'nowhere.png' cannot be read: there is no such file; allowed: a file, DATASET:test"),
        (["left:tset"], "unknown split 'tset'.*Did you mean 'test'"),
        (["middle:test"], "unknown dataset 'middle'"),
        (["left:test:10"], "row of left:test is 10; it must be from 0 to 9"),
        (["left:test:-1"], "row of left:test is -1; it must be from 0 to 9"),
        (["left:train:60"], "row of left:train is 60; it must be from 0 to 59"),
        (["left:test:one"], "row 'one' of left:test is not a number; allowed: .*DATASET:train:ROW"),
        (["TEXT"], "cannot be decoded"),
        (["left:test", "--output", "sheet.jpg"], "output 'sheet.jpg' does not end in .png"),
        (["left:test", "--output", "/dev/null/sheet.png"], "sheet of neighbors '/dev/null' cannot be written"),
        (["left:test", "--among", "lefd"], "unknown dataset 'lefd'.*Did you mean 'left'"),
        (["left:test", "--features", "head"], "unknown feature layer 'head'"),
        (["left:test", "--among", "left", "wide"], "'wide' has images of 24 pixels, 'left' of 16"),
        (["left:test", "--input-size", 24], "--input-size requires --weights"),
        (["left:test", "--seed", -1], "seed is -1; it must be at least 0"),
        (["left:test", "--neighbors", 0], "neighbors is 0; it must be from 1 to 50. A sheet has no room for more."),
        (["left:test", "--sample", 5], "sample is 5; it must be at least 11"),
        (["left:test", "--weights", "x.pth"], "give either TRIAL_ID, or --weights FILE"),
        (["left:test", "--trial-id", "../../etc"], "'../../etc' is not a trial id"),
        (["left:test", "--trial-id", "0123456789ab"], "no trial of .* is '0123456789ab'"),
    ],
)
def test_wrong_settings_are_refused_and_leave_no_files(
    data, storage, trial_id, tmp_path, capsys, monkeypatch, asked, message
):
    monkeypatch.chdir(tmp_path)
    asked = ["text.png" if word == "TEXT" else str(word) for word in asked]
    (tmp_path / "text.png").write_text("no image")
    among = [] if "--among" in asked else ["--among", "left"]
    trial = [] if "--trial-id" in asked else ["--trial-id", trial_id]
    assert main(["neighbors", *asked, *trial, *among, "--storage", str(storage), "--data", str(data)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert [file.name for file in tmp_path.iterdir()] == ["text.png"]


def test_an_encoder_without_domains_needs_the_among_option(data, storage, trial_id, capsys):
    flags = ["--trial-id", trial_id, "--storage", str(storage), "--data", str(data)]
    assert main(["neighbors", "left:test", *flags]) == 2
    assert "no training domains; name datasets to search with --among" in capsys.readouterr().err


def test_terminal_escapes_in_names_are_escaped(data, storage, trial_id, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = open_dataset(data, "left").split("train").images[0]
    Image.fromarray(image).save(f"{ESCAPE}.png")
    run("neighbors", f"{ESCAPE}.png", "--trial-id", trial_id, "--storage", storage, "--data", data, "--among", "left")
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\\x1b[2J.png: " in printed

    def sheet(name):
        match = Match(Picture(name, "", -1, "", image), (Picture(name, "train", 0, name, image),), (0.5,))
        return neighbor_sheet([match], [name], title="", subtitle="").tobytes()

    assert sheet(ESCAPE) == sheet("\\x1b[2J")


def test_a_thumbnail_has_a_frame_in_the_color_of_its_domain():
    images = [np.full((16, 16, 3), color, dtype=np.uint8) for color in ((255, 0, 255), (0, 255, 0))]
    query, neighbor = Picture("a.png", "", -1, "", images[0]), Picture("left", "train", 0, "", images[1])
    sheet = np.asarray(neighbor_sheet([Match(query, (neighbor,), (0.5,))], ["left"], title="", subtitle=""))
    for image, frame in zip(images, ((0xC8, 0xC8, 0xC8), (0x00, 0x72, 0xB2)), strict=True):
        rows, columns = np.nonzero((sheet == image[0, 0]).all(axis=2))
        top, left, bottom, right = rows.min(), columns.min(), rows.max(), columns.max()
        for distance, is_framed in ((1, True), (4, True), (5, False)):
            around = [
                (top - distance, left),
                (top, left - distance),
                (bottom + distance, right),
                (bottom, right + distance),
            ]
            assert [(sheet[place] == frame).all() for place in around] == [is_framed] * 4, distance


def test_long_names_are_shortened(data):
    image = open_dataset(data, "left").split("train").images[0]
    match = Match(Picture("a.png", "", -1, "", image), (Picture("left", "train", 0, "w" * 300, image),), (0.5,))
    assert neighbor_sheet([match], ["left"], title="", subtitle="").width < 400


@pytest.mark.parametrize("count", [1, 12])
def test_the_parts_of_a_sheet_are_complete_and_do_not_overlap(monkeypatch, count):
    """With one neighbor the legend is the widest part, with twelve a row."""
    drawn = []

    def recorded(draw, at, what, *more, kind, original):
        drawn.append((kind, what, draw.textbbox(at, what, more[1]) if kind == "text" else at))
        return original(draw, at, what, *more)

    for kind in ("text", "rectangle", "line"):
        original = getattr(ImageDraw.ImageDraw, kind)
        monkeypatch.setattr(ImageDraw.ImageDraw, kind, partialmethod(recorded, kind=kind, original=original))
    names, image = [f"domain-{number}" for number in range(9)], np.full((24, 24, 3), (255, 0, 255), np.uint8)
    near = tuple(Picture(names[n % 9], "train", n, "w" * 99, image) for n in range(count))
    queries = [Picture("/folder/photo.png", "", -1, "", image), Picture("domain-8", "test", 0, "cat", image)]
    matches = [Match(query, near, (0.25,) * count) for query in queries]
    sheet = neighbor_sheet(matches, names, title="Title", subtitle="Subtitle")

    texts, squares, lines = (
        [(what, box) for kind, what, box in drawn if kind == wanted] for wanted in ("text", "rectangle", "line")
    )
    found = {what for what, _ in texts}
    assert {"Title", "Subtitle", *names, "not searched", "query", "photo.png", "cat", "0.25"} <= found
    assert all(right - left > 60 for what, (left, _, right, _) in texts if what.endswith("…"))
    assert [color for color, _ in squares[:12]] == [*COLORS, COLORS[0], "#c8c8c8", "#c8c8c8", COLORS[0]]
    assert all(right - left == bottom - top for _, (left, top, right, bottom) in squares)
    assert (np.asarray(sheet) == image[0, 0]).all(axis=2).sum() == 2 * (1 + count) * 64 * 64
    queries = [squares[number][1] for number in (10, 11 + count)]
    assert all(line[1] == query[1] and line[3] > query[3] for (_, line), query in zip(lines, queries, strict=True))
    # Nothing overlaps; around and between the boxes only small gaps are empty.
    for (_, _, one), (_, _, other) in combinations(drawn, 2):
        assert one[0] >= other[2] or one[2] <= other[0] or one[1] >= other[3] or one[3] <= other[1]
    boxes = np.array(sorted((box for _, box in texts + squares), key=lambda box: box[1]))
    around = [*boxes.min(axis=0)[:2], *(sheet.size - boxes.max(axis=0)[2:])]
    assert min(around) >= 12 and max(around) <= 32
    assert max(boxes[1:, 1] - np.maximum.accumulate(boxes[:, 3])[:-1]) <= 17
