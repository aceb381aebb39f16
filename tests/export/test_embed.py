"""Embeddings of folders, Parquet files and datasets equal the features of probes, also after an interruption."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mdssl.cli.main import main
from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.data.mixture import fingerprint
from mdssl.data.prepare import prepare
from mdssl.evaluate.features import extract_features
from mdssl.export import embed, embeddings_file
from mdssl.pretrain.model import build_model
from mdssl.pretrain.trial_files import LoopState, load_model, write_finished
from mdssl.storage.location import Location

pytestmark = pytest.mark.usefixtures("full_encoders")


@pytest.fixture(scope="module")
def trial(tiny_data, tmp_path_factory) -> tuple[str, str]:
    """A storage with a trial on tiny-a, whose encoder is untrained, and the ID of the trial."""
    storage = tmp_path_factory.mktemp("trial")
    made_of = fingerprint(tiny_data, ("tiny-a",))
    config = TrialConfig(domains=("tiny-a",), arch="resnet18", precision="fp32", data_fingerprint=made_of)
    trial_dir = Location.of(storage) / "trials" / config.trial_id
    write_finished(trial_dir, config, build_model(config), LoopState(), device="cpu", workers=1)
    return str(storage), config.trial_id


@pytest.fixture(scope="module")
def expected(trial, tiny_data) -> dict[str, np.ndarray]:
    """The features (N, 512) of tiny-a by split, as a probe computes them."""
    _, model = load_model(Location.of(trial[0]) / "trials" / trial[1])
    dataset = open_dataset(tiny_data, "tiny-a")
    return {
        s: extract_features(model, dataset.split(s).images, batch_size=8)["encoder"].numpy() for s in ("train", "test")
    }


@pytest.fixture
def run(trial, tiny_data, tmp_path, monkeypatch, capsys):
    """``run(source, *flags)``: the embeddings as a data frame, or the error message if ``code`` is above 0.

    Parts have 16 images, and batches have 8.
    """
    monkeypatch.setattr(embeddings_file, "FEWEST", 16)
    monkeypatch.setattr(embeddings_file, "MOST", 16)

    def run(source, *flags, output=tmp_path / "out.parquet", code=0):
        command = ["embed", str(source), "--output", str(output), "--trial-id", trial[1], "--storage", trial[0]]
        command += ["--data", tiny_data, "--device", "cpu", "--batch-size", "8", "--workers", "1"]
        assert main([*command, *flags]) == code
        return capsys.readouterr().err if code else pd.read_parquet(output)

    return run


@pytest.fixture
def pictures(tiny_data, tmp_path):
    """The test images of tiny-a as PNGs, some in nested folders."""
    for row, image in enumerate(open_dataset(tiny_data, "tiny-a").split("test").images):
        file = tmp_path / "pictures" / ("a/deep" if row < 20 else "b") / f"{row:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    (tmp_path / "pictures" / "notes.txt").write_text("no image")
    return tmp_path / "pictures"


@pytest.fixture
def encoded(monkeypatch):
    """The number of images of each call that computes features."""
    counts = []

    def counting(model, images, **settings):
        counts.append(len(images))
        return extract_features(model, images, **settings)

    monkeypatch.setattr(embed, "extract_features", counting)
    return counts


def test_embeddings_of_a_folder_of_pngs_equal_the_features_of_a_probe(run, pictures, expected):
    board = run(pictures)
    assert list(board.columns) == ["path", "embedding"]
    assert list(board["path"][[0, 31]]) == ["a/deep/00.png", "b/31.png"]
    found = np.stack(board["embedding"])
    assert found.dtype == np.float32
    # The batches are the same; the last batch of each part could be smaller, but here it is full.
    assert np.array_equal(found, expected["test"])


def test_embeddings_of_a_dataset_have_splits_rows_and_labels(run, expected, tiny_data, tmp_path):
    board = run("tiny-a")
    assert np.array_equal(np.stack(board["embedding"]), np.concatenate([expected["train"], expected["test"]]))
    assert list(board.groupby("split").size()[["train", "test"]]) == [64, 32]
    assert list(board["row"]) == [*range(64), *range(32)]
    dataset = open_dataset(tiny_data, "tiny-a")
    assert list(board["label"][64:]) == [dataset.classes[label] for label in dataset.split("test").labels]
    test = run("tiny-a", "--split", "test", output=tmp_path / "test.parquet")
    assert np.array_equal(np.stack(test["embedding"]), expected["test"])


@pytest.mark.parametrize("labelled", [True, False])
def test_hugging_face_parquet_is_read_with_or_without_labels(labelled, run, pictures, tmp_path, expected):
    images = [{"bytes": file.read_bytes(), "path": None} for file in sorted(pictures.rglob("*.png"))]
    columns = {"image": images} | ({"label": pa.array([1, None] * 16)} if labelled else {})
    shards = tmp_path / "shards" / "data"
    shards.mkdir(parents=True)
    for number in range(2):
        half = {name: values[16 * number : 16 * number + 16] for name, values in columns.items()}
        pq.write_table(pa.table(half), shards / f"test-0000{number}-of-00002.parquet")
    board = run(shards.parent)
    assert np.array_equal(np.stack(board["embedding"]), expected["test"])
    assert list(board["row"]) == list(range(32))
    if labelled:
        assert [None if pd.isna(label) else label for label in board["label"][:2]] == ["1", None]
    else:
        assert "label" not in board


def test_images_of_other_sizes_are_resized_as_in_prepare(run, pictures, trial):
    rng = np.random.default_rng(0)
    for file in pictures.rglob("*.png"):
        Image.fromarray(rng.integers(0, 256, (40, 24), dtype=np.uint8)).save(file)
    files = sorted(pictures.rglob("*.png"))
    small = [Image.open(file).convert("RGB").resize((16, 16), Image.Resampling.BICUBIC) for file in files]
    _, model = load_model(Location.of(trial[0]) / "trials" / trial[1])
    seen = extract_features(model, np.stack([np.asarray(image) for image in small]))["encoder"]
    np.testing.assert_allclose(np.stack(run(pictures)["embedding"]), seen, rtol=1e-4, atol=1e-5)


def test_dark_16_bit_images_keep_their_brightness_as_in_prepare(run, tmp_path, trial, monkeypatch):
    """The bit depth is that of all images, also where parts of an interrupted run are there already."""
    rng, scans = np.random.default_rng(0), tmp_path / "scans"
    scans.mkdir()
    for number in range(32):
        image = rng.integers(0, 200, (16, 16)).astype(np.uint16)
        Image.fromarray(image).save(scans / f"{number:02}.png")
    with monkeypatch.context() as patch:
        patch.setattr(embeddings_file.Parts, "join", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        run(scans, code=130)
    Image.fromarray(rng.integers(0, 4096, (16, 16)).astype(np.uint16)).save(scans / "99.png")
    seen = prepare("scans", data=tmp_path / "data", source=scans, image_size=16, progress=False).pretraining_images()
    assert seen[0].max() <= 13
    _, model = load_model(Location.of(trial[0]) / "trials" / trial[1])
    expected = extract_features(model, seen)["encoder"]
    np.testing.assert_allclose(np.stack(run(scans)["embedding"]), expected, rtol=1e-4, atol=1e-5)


def test_an_interrupted_run_resumes_after_its_last_written_part(run, encoded, tmp_path, expected, monkeypatch):
    whole = run("tiny-a", output=tmp_path / "whole.parquet")
    encoded.clear()
    write = embeddings_file.Parts.write

    def interrupted(self, number, *rest):
        if number == 2:
            raise KeyboardInterrupt
        write(self, number, *rest)

    monkeypatch.setattr(embeddings_file.Parts, "write", interrupted)
    assert "the same command resumes" in run("tiny-a", code=130)
    assert not (tmp_path / "out.parquet").exists()
    assert sum(encoded) == 48
    encoded.clear()
    monkeypatch.setattr(embeddings_file.Parts, "write", write)
    pd.testing.assert_frame_equal(run("tiny-a"), whole)
    assert sum(encoded) == 96 - 32
    assert not (tmp_path / "out.parquet.parts").exists()


def test_a_repeated_command_does_nothing_and_a_changed_command_is_refused(run, encoded, pictures, capsys):
    run(pictures)
    encoded.clear()
    run(pictures)
    assert "complete already" in capsys.readouterr().out
    assert not encoded
    assert "another encoder or other settings" in run(pictures, "--features", "projection", code=2)
    Image.new("RGB", (16, 16)).save(pictures / "b" / "new.png")
    assert "with other images" in run(pictures, code=2)


def test_parts_left_by_a_kill_or_by_another_process_are_deleted_by_the_same_command(
    run, pictures, monkeypatch, tmp_path
):
    delete, write = embeddings_file.Parts.delete_parts, embeddings_file.Parts.write
    monkeypatch.setattr(embeddings_file.Parts, "delete_parts", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    run(pictures, code=130)
    monkeypatch.setattr(embeddings_file.Parts, "delete_parts", delete)
    assert len(list((tmp_path / "out.parquet.parts").iterdir())) == 2
    run(pictures)
    assert not (tmp_path / "out.parquet.parts").exists()

    def joined_elsewhere(self, number, *rest):
        write(self, number, *rest)
        if number == 1:
            (tmp_path / "two.parquet.parts" / "000000.parquet").unlink()
            shutil.copy(tmp_path / "out.parquet", tmp_path / "two.parquet")

    monkeypatch.setattr(embeddings_file.Parts, "write", joined_elsewhere)
    message = run(pictures, output=tmp_path / "two.parquet", code=2)
    assert "another process has joined the parts in" in message and "Run the same command" in message
    run(pictures, output=tmp_path / "two.parquet")
    assert not (tmp_path / "two.parquet.parts").exists()


def test_parts_of_another_encoder_are_refused(run, pictures, monkeypatch):
    join = embeddings_file.Parts.join
    monkeypatch.setattr(embeddings_file.Parts, "join", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    run(pictures, code=130)
    monkeypatch.setattr(embeddings_file.Parts, "join", join)
    assert "contains parts of a run with another encoder" in run(pictures, "--features", "projection", code=2)


def test_an_image_replaced_during_an_interruption_is_encoded_again(run, encoded, pictures, monkeypatch):
    join = embeddings_file.Parts.join
    monkeypatch.setattr(embeddings_file.Parts, "join", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    run(pictures, code=130)
    monkeypatch.setattr(embeddings_file.Parts, "join", join)
    shutil.copy(pictures / "a/deep/00.png", pictures / "b/31.png")
    encoded.clear()
    found = np.stack(run(pictures)["embedding"])
    assert sum(encoded) == 16
    np.testing.assert_allclose(found[31], found[0], rtol=1e-4, atol=1e-5)


def test_a_damaged_image_is_named_and_left_out_only_on_request(run, pictures, expected, capsys, tmp_path):
    (pictures / "a/deep/03.png").write_bytes((pictures / "a/deep/03.png").read_bytes()[:60])
    (pictures / "b/30.png").write_bytes(b"")
    (pictures / "b/nowhere.png").symlink_to(tmp_path / "nothing.png")
    assert re.search(r"image a/deep/03.png cannot be decoded.*--skip-damaged", run(pictures, code=2))
    board = run(pictures, "--skip-damaged")
    left = [row for row in range(32) if row not in (3, 30)]
    np.testing.assert_allclose(np.stack(board["embedding"]), expected["test"][left], rtol=1e-4, atol=1e-5)
    said = capsys.readouterr()
    assert "damaged images left out: 2" in said.out
    assert "left out: broken links: 1, such as b/nowhere.png" in said.err
    skipped = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"mdssl.skipped"])
    assert skipped.keys() == {"a/deep/03.png", "b/30.png"}
    assert "exists without 2 damaged images, such as a/deep/03.png. Keep it with --skip-damaged" in run(
        pictures, code=2
    )
    run(pictures, "--skip-damaged")


def test_a_folder_of_only_damaged_images_is_refused(run, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    assert "no image of bad can be decoded" in run(tmp_path / "bad", "--skip-damaged", code=2)
    assert not (tmp_path / "out.parquet").exists()


def test_embeddings_can_be_written_to_a_bucket(run, trial, bucket, expected, tiny_data):
    command = ["embed", "tiny-a", "--split", "test", "--trial-id", trial[1], "--storage", trial[0], "--data", tiny_data]
    assert main([*command, "--output", f"{bucket}/deep/out.parquet", "--device", "cpu", "--batch-size", "8"]) == 0
    output = Location.of(f"{bucket}/deep/out.parquet")
    table = pq.read_table(pa.BufferReader(output.read_bytes()))
    assert table.schema.field("embedding").type.list_size == 512
    found = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 512)
    assert np.array_equal(found, expected["test"])
    assert output.parent.names() == ["out.parquet"]


def test_weights_from_a_file_give_the_embeddings_of_their_trial(run, trial, expected, tiny_data, tmp_path):
    exported = ["export", trial[1], "--storage", trial[0], "--data", tiny_data, "--output", str(tmp_path / "exported")]
    assert main(exported) == 0
    weights = ["--weights", str(tmp_path / "exported" / "model.safetensors"), "--trial-id", ""]
    assert np.array_equal(np.stack(run("tiny-a", "--split", "test", *weights)["embedding"]), expected["test"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "--output", "out.npy", "--weights", "none.pth"], "does not end in .parquet"),
        (["photos", "--output", "out.parquet", "--weights", "none.pth"], "'photos' is neither a folder or file"),
        ([".", "--output", "out.parquet", "--weights", "none.pth"], "has no images, at any depth"),
        (
            ["photos", "--output", "out.parquet", "--features", "top", "--weights", "none.pth"],
            "unknown feature layer 'top'",
        ),
    ],
)
def test_wrong_arguments_are_refused_and_leave_no_files(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["embed", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_of_the_name_of_the_output_is_refused(run, tmp_path):
    (tmp_path / "out.parquet").mkdir()
    assert "out.parquet is a folder, where no file can be written" in run("tiny-a", code=2)
