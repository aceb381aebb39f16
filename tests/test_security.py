"""Untrusted files run no code, untrusted names lead to no other folder, and a local sweep listens on loopback only.

Other tests of security: pickles in files of weights (tests/pretrain/test_weights_file.py) and in CIFAR's batches
(tests/data/test_raw_formats.py), members of archives (tests/data/test_download.py), names of datasets to prepare
(tests/data/test_prepare.py), roles and ports of clusters (tests/clusters).
"""

import io
import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from rich.console import Console

from mdssl.cli import trials
from mdssl.cli.parse import command
from mdssl.config.trial import TrialConfig
from mdssl.data.dataset import open_dataset
from mdssl.data.prepare import prepare
from mdssl.errors import InputError
from mdssl.leaderboard import board as leaderboard
from mdssl.pretrain import checkpoint
from mdssl.pretrain.model import build_model
from mdssl.pretrain.optim import build_optimizer
from mdssl.pretrain.trial_files import load_model, now
from mdssl.storage.location import Location
from mdssl.sweep.progress import SweepProgress
from mdssl.sweep.ray_session import make_private_token
from mdssl.terminal import Terminal, printable
from mdssl.trials.rows import failed_row
from mdssl.trials.status_output import print_status

CONFIG = TrialConfig(arch="resnet18", domains=("tiny-a", "tiny-b"), iterations=4, precision="fp32")
CLEARS_THE_SCREEN = "\x1b[2J"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, its IPv4-mapped IPv6 address, and ::1."""


class Trap:
    """An object whose unpickling makes the file ``sprung``."""

    def __init__(self, sprung: Path):
        self.sprung = sprung

    def __reduce__(self):
        return Path.touch, (self.sprung,)


@pytest.fixture
def sprung(tmp_path):
    """A file that unpickling a `Trap` makes; at the end of each test it must not exist."""
    file = tmp_path / "sprung"
    yield file
    assert not file.exists(), "code from a file was run"
    pickle.loads(pickle.dumps(Trap(file)))
    assert file.exists(), "the trap does not work"


def traps(sprung: Path) -> dict[str, bytes]:
    objects, saved = io.BytesIO(), io.BytesIO()
    np.save(objects, np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    torch.save(Trap(sprung), saved)
    return {"pickle": pickle.dumps(Trap(sprung)), "npy": objects.getvalue(), "torch.save": saved.getvalue()}


@pytest.mark.parametrize("kind", ["pickle", "npy", "torch.save"])
class TestFilesThatRunCode:
    def test_prepared_images(self, tiny_data, tmp_path, sprung, kind):
        source = Path(tiny_data).parent / "tiny-a.npz"
        prepare("own", data=tmp_path / "data", source=source, image_size=16, workers=1, progress=False)
        for file in ("images.npy", "labels.npy"):
            (tmp_path / "data" / "own" / "test" / file).write_bytes(traps(sprung)[kind])
            with pytest.raises(InputError, match="is damaged"):
                open_dataset(tmp_path / "data", "own")

    def test_an_npz(self, tmp_path, sprung, kind):
        (tmp_path / "own.npz").write_bytes(traps(sprung)[kind])
        with pytest.raises(InputError):
            prepare("own", data=tmp_path / "data", source=tmp_path / "own.npz", progress=False)

    def test_an_encoder(self, tmp_path, sprung, kind):
        (tmp_path / "encoder.safetensors").write_bytes(traps(sprung)[kind])
        with pytest.raises(InputError, match="is damaged"):
            load_model(Location.of(tmp_path))

    def test_a_checkpoint(self, tmp_path, sprung, kind, caplog):
        (tmp_path / "step-00000001.safetensors").write_bytes(traps(sprung)[kind])
        model = build_model(CONFIG)
        assert checkpoint.load_latest(Location.of(tmp_path), model, build_optimizer(CONFIG, model)) is None
        assert "cannot be read" in caplog.text

    def test_a_leaderboard_file_and_a_trials_files(self, tmp_path, sprung, kind, capsys):
        trial = tmp_path / "trials" / CONFIG.trial_id
        trial.mkdir(parents=True)
        (trial / "config.json").write_text(json.dumps(CONFIG.to_dict()))
        (trial / "metrics.parquet").write_bytes(traps(sprung)[kind])
        print_status(tmp_path)
        assert "is damaged" in capsys.readouterr().out
        (tmp_path / "leaderboard").mkdir()
        (tmp_path / "leaderboard" / f"{CONFIG.trial_id}.parquet").write_bytes(traps(sprung)[kind])
        with pytest.raises(InputError):
            leaderboard.read(Location.of(tmp_path))


def test_objects_in_an_npz_are_refused(tmp_path, sprung):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    for classes, labels in (
        (np.array([Trap(sprung), "dog"], dtype=object), np.arange(4) % 2),
        (np.array(["cat", "dog"]), np.array([Trap(sprung)] * 4, dtype=object)),
    ):
        arrays = {"train_images": images, "train_labels": labels, "classes": classes}
        np.savez(tmp_path / "own.npz", **arrays)
        with pytest.raises(InputError, match="cannot be read as npz"):
            prepare("own", data=tmp_path / "data", source=tmp_path / "own.npz", progress=False)


def test_pickles_in_parquet_files_are_not_loaded(tmp_path, sprung):
    cells = [{"bytes": pickle.dumps(Trap(sprung)), "path": "a.png"}] * 4
    # pandas and Arrow mark columns of pickled objects or types so.
    pandas = {"columns": [{"name": "image", "pandas_type": "object", "numpy_type": "object", "metadata": None}]}
    mark = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Trap(sprung))}
    image = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]), metadata=mark)
    schema = pa.schema([image, ("label", pa.int64())], metadata={"pandas": json.dumps(pandas)})
    (tmp_path / "own").mkdir()
    for split in ("train", "test"):
        table = pa.table([cells, [0, 1, 0, 1]], schema=schema)
        pq.write_table(table, tmp_path / "own" / f"{split}-00000-of-00001.parquet")
    with pytest.raises(InputError, match="cannot be decoded"):
        prepare("own", data=tmp_path / "data", source=tmp_path / "own", workers=1, progress=False)


def test_encoder_with_unknown_settings_is_refused(tmp_path):
    for metadata in ({}, {"config": "no json"}, {"config": '{"arch": "resnet18", "command": "rm"}'}):
        tensors = {"encoder.conv1.weight": torch.zeros(1)}
        (tmp_path / "encoder.safetensors").write_bytes(safetensors.torch.save(tensors, metadata=metadata))
        with pytest.raises(InputError, match="is damaged|unknown config key .command."):
            load_model(Location.of(tmp_path))


@pytest.mark.parametrize("trial_id", ["../../elsewhere", "..", "/etc", "0123456789AB", "0123456789abc", "a/../b"])
def test_trial_id_with_a_path_is_refused(tmp_path, trial_id):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "encoder.safetensors").write_bytes(b"")
    settings = trials.Probe(trial_id=trial_id, storage=str(tmp_path / "results" / "deep"), device="cpu")
    with pytest.raises(InputError, match="is not a trial id"):
        trials.probe(settings)


@pytest.mark.parametrize("name", ["../tiny-a", "../../x", "/etc", "a/b", "..", ".", "", "tiny-a/", "tiny-a/../tiny-b"])
def test_dataset_name_with_a_path_is_refused(tiny_data, tmp_path, name):
    inside = Path(tiny_data) / "tiny-a"
    with pytest.raises(InputError, match="unknown dataset"):
        open_dataset(inside, name)
    source = Path(tiny_data).parent / "tiny-a.npz"
    with pytest.raises(InputError, match="name"):
        prepare(name, data=tmp_path / "data", source=source, progress=False)
    assert not list(tmp_path.rglob("meta.json"))


def test_split_names_in_meta_json_are_not_used_as_paths(tiny_data, tmp_path):
    """Only the splits that mdssl defines are opened."""
    source = Path(tiny_data).parent / "tiny-a.npz"
    prepare("own", data=tmp_path / "data", source=source, image_size=16, workers=1, progress=False)
    file = tmp_path / "data" / "own" / "meta.json"
    meta = json.loads(file.read_text())
    meta["splits"]["../../../../etc"] = meta["splits"]["test"]
    file.write_text(json.dumps(meta))
    dataset = open_dataset(tmp_path / "data", "own")
    assert set(dataset.counts) == {"train", "test"}
    with pytest.raises(InputError, match="unknown split"):
        dataset.split("../../../../etc")


def test_printable_escapes_control_characters():
    assert printable(f"a{CLEARS_THE_SCREEN}b\rc\x07\x9b1m\u202e") == r"a\x1b[2Jb\rc\x07\x9b1m\u202e"
    text = "λ1 = 0.9 – naïve 漢字 🙂\n\tdone"
    assert printable(text) == text


def shown(console: Console) -> str:
    return console.file.getvalue()


@pytest.fixture
def console():
    """A wide terminal, whose output includes the styles of mdssl."""
    return Terminal(file=io.StringIO(), width=200, force_terminal=True, color_system="standard", highlight=False)


def test_console_escapes_control_characters_and_keeps_styles(console):
    from rich.text import Text

    console.print(Text(f"bad {CLEARS_THE_SCREEN} words", style="bold"))
    assert shown(console) == "\x1b[1mbad \\x1b[2J words\x1b[0m\n"


def test_control_characters_in_errors_are_escaped(capsys):
    @command
    def main(argv):
        raise InputError(f"class folder {CLEARS_THE_SCREEN} has no images")

    assert main([]) == 2
    assert capsys.readouterr().err == "error: class folder \\x1b[2J has no images\n"


def test_control_characters_in_stored_errors_and_names_are_escaped(tmp_path, console):
    config = TrialConfig(domains=(f"a{CLEARS_THE_SCREEN}", "b"), precision="fp32")
    error = f"ValueError: [/red] image {CLEARS_THE_SCREEN}.png cannot be decoded"
    context = {"sweep": "s", "preset": "", "git_commit": "", "ray_version": ""}
    row = failed_row(config, error, context=context, started_at=now())
    leaderboard.write_rows(Location.of(tmp_path), config.trial_id, [row])
    from mdssl.tables.printing import print_leaderboard

    print_leaderboard(tmp_path, console=console)
    print_status(tmp_path, console=console)
    assert CLEARS_THE_SCREEN not in shown(console)
    assert shown(console).count("[/red] image \\x1b[2J.png") == 2


def test_names_in_the_table_of_a_sweep_are_not_parsed_as_markup(console):
    config = TrialConfig(domains=("[/]", "b[red]"), precision="fp32", iterations=9)
    other = TrialConfig(domains=("[blink]x",), precision="fp32", iterations=9)
    with SweepProgress({each.trial_id: each for each in (config, other)}, console) as progress:
        trial = SimpleNamespace(config={"work": {"trial": config.to_dict()}})
        waits = {"state": "queued", "owner": f"[bold]host{CLEARS_THE_SCREEN}", "reached": 3}
        progress.on_trial_result(0, [], trial, waits)
        console.print(progress._table())
    assert "waiting for [bold]host\\x1" in shown(console) and CLEARS_THE_SCREEN not in shown(console)
    assert "[/]+b[red]" in shown(console) and "[blink]x" in shown(console)


@pytest.mark.parametrize("before", [None, 0o644])
def test_only_the_user_can_read_the_token(tmp_path, monkeypatch, before):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    token = tmp_path / ".ray" / "auth_token"
    if before:
        token.parent.mkdir()
        token.write_text("theirs")
        token.chmod(before)
    make_private_token()
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() == "theirs" if before else len(token.read_text()) == 64


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
class TestASweepOnThisMachine:
    def test_listens_on_loopback_only(self, stopped_sweep):
        who = " ".join(stopped_sweep.ports.values())
        assert "gcs_server" in who and "raylet" in who and "ray::ImplicitFunc" in who, (
            "some of Ray's processes do not listen"
        )
        assert {key: name for key, name in stopped_sweep.ports.items() if key[0] not in LOOPBACK} == {}

    def test_makes_a_token_that_only_the_user_can_read(self, stopped_sweep):
        assert (stopped_sweep.home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600

    def test_deletes_its_ray_session(self, stopped_sweep):
        assert len(stopped_sweep.sessions) == 1
        assert stopped_sweep.left == []
