"""Compiled runs: they train the same encoder as others, and long runs on a GPU are compiled by default."""

from functools import partial

import numpy as np
import pytest
import torch
from factories import tiny_trial
from loop_runs import losses, weights
from torch._dynamo.utils import counters

from mdssl.config.run import RunSettings
from mdssl.pretrain import loop, step
from mdssl.pretrain.augment import augment
from mdssl.pretrain.loop import train
from mdssl.pretrain.model import Model, build_model
from mdssl.pretrain.step import backward_at_once, two_views
from mdssl.pretrain.stopping import StoppedError


@pytest.mark.slow
def test_a_compiled_run_trains_the_same_encoder(tiny_data, tmp_path, monkeypatch):
    # The eager backend runs Dynamo's graphs as they are: generating and compiling C++ code would take a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    # In float64: in float32, batch norm over 16 views amplifies rounding errors to 1e-3 in three steps.
    monkeypatch.setattr(loop, "build_model", lambda config: build_model(config).double())
    monkeypatch.setattr(loop, "two_views", lambda *args, **kwargs: two_views(*args, **kwargs).double())
    trial = tiny_trial(iterations=3)
    for name, compiled in (("as-written", False), ("compiled", True)):
        settings = RunSettings(compile=compiled, report_every=1)
        train(trial, data=tiny_data, trial_dir=tmp_path / name, settings=settings, device="cpu")
    # The views are computed in float32 and may differ in their last bits.
    np.testing.assert_allclose(losses(tmp_path / "compiled"), losses(tmp_path / "as-written"), rtol=1e-3)
    assert weights(tmp_path / "compiled").keys() == weights(tmp_path / "as-written").keys()


@pytest.mark.parametrize("batching", ["joint", "per-domain"])
def test_changing_batch_sizes_recompile_at_most_twice(batching):
    """The batch sizes of clusters change with each clustering, and some clusters are empty."""
    torch._dynamo.reset()
    counters.clear()
    trial = tiny_trial(batching=batching)
    model = build_model(trial)
    model.compile(backend="eager", fullgraph=True)
    for counts in ([8, 8], [8, 5], [4, 8], [7, 7], [8, 8], [5, 5, 5], [4, 5, 2]):
        backward_at_once(trial, model, torch.randn(2 * sum(counts), 3, 32, 32), [counts])
    assert counters["stats"]["unique_graphs"] <= 3
    assert not counters["graph_break"]
    assert model.eager_passes == 0


@pytest.mark.parametrize(
    ("device", "steps", "changes", "expected"),
    [
        ("cuda", 6, {"compile_from": 6}, True),
        ("cuda", 6, {"compile_from": 1}, True),
        ("cuda", 6, {"compile_from": 7}, False),
        ("cuda", 6, {"compile_from": 0}, False),
        ("cpu", 6, {"compile_from": 6}, False),
        ("cpu", 6, {"compile": True}, True),
    ],
    ids=["long enough", "always", "too short", "never", "not on a CPU", "on request"],
)
def test_long_runs_on_a_gpu_are_compiled(
    tiny_data, tmp_path, monkeypatch, request, caplog, device, steps, changes, expected
):
    if device == "cuda":
        request.getfixturevalue("gpu")
    asked = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: asked.append("reset"))
    monkeypatch.setattr(Model, "compile", lambda self: asked.append("model"))
    monkeypatch.setattr(step, "augment", lambda *args, compiled: asked.append(compiled) or augment(*args))
    settings = RunSettings(**changes, track=())
    ended = train(tiny_trial(iterations=steps), data=tiny_data, trial_dir=tmp_path, settings=settings, device="cpu")
    assert asked == ["reset", "model"] * expected + [expected] * 2 * steps, "two views per step"
    # `Model.compile` is replaced, so that each pass is without compiled code.
    assert ended["compiled"] is False
    assert any(record.levelname == "WARNING" for record in caplog.records) is expected


def test_resumed_run_is_compiled_like_the_first(tiny_data, tmp_path, monkeypatch, gpu):
    asked = []
    monkeypatch.setattr(Model, "compile", lambda self: asked.append("model"))
    monkeypatch.setattr(loop, "two_views", lambda *args, compiled: two_views(*args))
    arguments = {"data": tiny_data, "trial_dir": tmp_path, "settings": RunSettings(compile_from=6, track=())}
    with pytest.raises(StoppedError):
        train(tiny_trial(iterations=6), **arguments, stop_requested=partial(next, iter([False] * 3 + [True])))
    train(tiny_trial(iterations=6), **arguments)
    assert asked == ["model"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("forgets", [True, False])
def test_later_run_of_a_process_records_whether_it_was_compiled(tiny_data, tmp_path, monkeypatch, caplog, forgets):
    """PyTorch compiles a function for the first few models of a process and runs later models uncompiled."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    if not forgets:
        monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    found = []
    for name, config in (("first", tiny_trial(iterations=2)), ("second", tiny_trial(iterations=2, stem="cifar"))):
        settings = RunSettings(compile=True, report_every=1)
        with torch._dynamo.config.patch(recompile_limit=1):
            ended = train(config, data=tiny_data, trial_dir=tmp_path / name, settings=settings, device="cpu")
        found.append(ended["compiled"])
    assert found == [True, forgets]
    assert ("ran the model 2 times" in caplog.text) is not forgets
