"""The public API: its names, and the code of README.md, docs/api.md and docs/sweep.ipynb on tiny data."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import CONTEXT

import mdssl
from mdssl import Sweep
from mdssl.leaderboard.board import write_rows
from mdssl.pretrain.trial_files import now
from mdssl.trials.rows import failed_row

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def test_import_loads_neither_torch_nor_ray():
    code = (
        "import sys, mdssl; dir(mdssl); assert not {'torch', 'ray', 'pandas'} & sys.modules.keys(); mdssl.TrialConfig"
    )
    subprocess.run([sys.executable, "-c", code + "; assert 'torch' not in sys.modules"], check=True)


def test_every_public_name_exists_and_is_documented():
    assert set(mdssl.__all__) <= set(dir(mdssl))
    page = (ROOT / "docs" / "api.md").read_text()
    for name in mdssl.__all__:
        assert getattr(mdssl, name).__doc__, name
        assert f"`{name}`" in page, name
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = mdssl.trian
    assert (Path(mdssl.__file__).parent / "py.typed").exists()


def test_loss_example_of_the_readme_trains_a_model():
    (block,) = [block for block in blocks("README.md") if "mdssl_loss" in block]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8))
    names = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "batches": [(torch.rand(6, 3, 2, 2), torch.rand(6, 3, 2, 2), torch.tensor([4, 4, 7, 7, 7, 4]))],
    }
    before = model[1].weight.clone()
    exec(block, names)
    assert len(block.strip().splitlines()) <= 7
    assert not torch.equal(model[1].weight, before)


def test_sweep_has_the_trials_of_the_script(tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "sweeps")
    import lambda_grid

    flags = ["--domains", "tiny-a", "tiny-b", "--lambda1", "1", "0.9", "--lambda2", "0.1", "--seeds", "0", "1"]
    flags += ["--batch-per-domain", "8", "--data", tiny_data, "--storage", str(tmp_path), "--dry-run"]
    assert lambda_grid.main(flags) == 0
    planned = re.findall(r"^  ([0-9a-f]{12})  ", capsys.readouterr().out, re.MULTILINE)
    sweep = Sweep(
        domains=["tiny-a", "tiny-b"],
        lambda1=list(np.array([1, 0.9])),
        lambda2=[0.1],
        seeds=list(np.arange(2)),
        batch_per_domain=8,
        data=tiny_data,
        storage=str(tmp_path),
    )
    assert [trial.trial_id for trial in sweep.trials()] == planned
    assert len(planned) == 2 * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lamda1": [1]}, "unknown setting 'lamda1'.*Did you mean 'lambda1'"),
        ({"methods": ["mdsl"]}, "unknown method 'mdsl'.*Did you mean 'mdssl'"),
        (
            {"methods": [{"method": "mdssl", "lambda9": 0.9}]},
            "unknown setting of a method 'lambda9'.*Did you mean 'lambda",
        ),
        ({"preset": "papr"}, "unknown preset 'papr'.*Did you mean 'paper'"),
        ({"lambda1": [-0.9]}, "is lambda1 = 0.9"),
    ],
)
def test_wrong_setting_of_a_sweep_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sweep(domains=["tiny-a"], **settings)


def test_hint_for_failed_trials_in_a_notebook_is_python_code(tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    sweep = Sweep(
        methods=["random"],
        domains=["tiny-a"],
        data=tiny_data,
        storage=str(tmp_path),
        batch_per_domain=8,
        evaluate=["tiny-a"],
    )
    (trial,) = sweep.trials()
    write_rows(str(tmp_path), trial.trial_id, [failed_row(trial, "gone", context=CONTEXT, started_at=now())])
    sweep.run()
    said = capsys.readouterr().out
    assert "to retry failed trials and probes: Sweep(…, retry_failed=True)" in said and "kernel" not in said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that the code of the page and the notebook share: their sweeps have the same trials, trained once."""
    return tmp_path_factory.mktemp("api")


@pytest.mark.ray
def test_code_of_the_api_page_runs_on_tiny_data(cluster, tiny_data, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names: dict = {}
    for block in blocks("docs/api.md"):
        code = (
            block.replace('"cifar10"', '"tiny-a"')
            .replace('"svhn"', '"tiny-b"')
            .replace('data="data"', f"data={tiny_data!r}")
        )
        code = code.replace("iterations=2_000", "iterations=2").replace("batch_per_domain=128", "batch_per_domain=8")
        code = code.replace("[1.0, 0.9]", "[1.0]").replace("[0.0, 0.1]", "[0.1]")
        code = code.replace('executor="inline"', f'executor="inline", address="{cluster}"')
        exec(code, names)
    board = names["board"]
    assert set(board["method"]) == {"random", "simclr", "mdssl"}
    assert set(board["status"]) == {"finished"}


@pytest.mark.ray
def test_the_notebook_runs_on_tiny_data(cluster, tiny_data, folder, monkeypatch):
    cells = json.loads((ROOT / "docs" / "sweep.ipynb").read_text())["cells"]
    monkeypatch.chdir(folder)
    small = {
        '"builtin-shapes", "builtin-textures", "builtin-digits"': '"tiny-a", "tiny-b"',
        '"builtin-shapes", "builtin-textures"': '"tiny-a", "tiny-b"',
        '"builtin-digits"': '"tiny-a"',
        'data="data"': f"data={tiny_data!r}, address={cluster!r}",
        "lambda2=[0.0, 0.1, 0.2]": "lambda2=[0.1]",
        "iterations=100": "iterations=2, batch_per_domain=8",
    }
    names: dict = {}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        assert not cell["outputs"], "the notebook contains outputs"
        code = "".join(cell["source"])
        for full, tiny in small.items():
            code = code.replace(full, tiny)
        exec(code, names)
    board = names["board"]
    assert set(board["method"]) == {"random", "simclr", "mdssl"} and board["top1"].notna().all()
    assert (folder / "heatmap.pdf").read_bytes().startswith(b"%PDF")
