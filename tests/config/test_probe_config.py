"""Configs of probes: names, limits, and flags."""

import pytest

from mdssl.config.field_types import choices
from mdssl.config.probe import ProbeConfig, probe_flags, probe_named_now


def test_probe_names_identify_the_settings():
    assert ProbeConfig(probe="sgd").name == "sgd(standardized)"
    assert ProbeConfig(probe="sgd", probe_epochs=30).name == "sgd(standardized,epochs=30)"
    assert ProbeConfig(probe="sgd-raw", probe_epochs=30).name == "sgd-raw(epochs=30)"
    for probe, first in (("sgd", "sgd(standardized,learning_rate=0.1)"), ("sgd-raw", "sgd-raw")):
        several = ProbeConfig(probe=probe, probe_learning_rate=(0.1, 0.3))
        assert [own.name for own in several.each()] == [first, several.each()[1].name]
        assert "learning_rate=0.3" in several.each()[1].name
    for probe, rates in (("sgd", (0.5, 0.50000001)), ("lbfgs", (0.1,)), ("lbfgs", (0.1, 0.3))):
        with pytest.raises(ValueError, match="probe_learning_rate"):
            ProbeConfig(probe=probe, probe_learning_rate=rates)
    for probe in ("lbfgs", "lbfgs-path"):
        for name in ("probe_epochs", "probe_batch"):
            with pytest.raises(
                ValueError, match=f"{name} is 30, which the .* probe does not have; use --probe sgd or --probe sgd-raw"
            ):
                ProbeConfig(probe=probe, **{name: 30})
    assert probe_named_now("sgd(learning_rate=0.3)") == "sgd-raw(learning_rate=0.3)"
    assert probe_named_now("sgd") == "sgd-raw"
    for name in (
        "lbfgs",
        "lbfgs(l2=0.1)",
        *(ProbeConfig(probe=probe, knn_neighbors=3).name for probe in choices(ProbeConfig, "probe")),
        *(ProbeConfig(probe=probe, probe_epochs=3).name for probe in ("sgd", "sgd-raw", "finetune")),
    ):
        assert probe_named_now(name) == name
    with pytest.raises(ValueError, match="unknown probe 'lbgfs'.*Did you mean 'lbfgs'"):
        ProbeConfig(probe="lbgfs")
    with pytest.raises(ValueError, match="each layer once"):
        ProbeConfig(features=("encoder", "encoder"))


@pytest.mark.parametrize("probe", ["sgd", "sgd-raw"])
@pytest.mark.parametrize("rate", [0.0, -0.1, 1e30, None])
def test_probe_learning_rates_outside_their_range_are_refused(probe, rate):
    highest = {"sgd": 2.5, "sgd-raw": 100.0}[probe]
    assert ProbeConfig(probe=probe, probe_learning_rate=(highest,)).name.endswith(f"learning_rate={highest:g})")
    rate = 1.01 * highest if rate is None else rate
    with pytest.raises(ValueError, match=rf"probe_learning_rate is \S+; the {probe} probe .* above 0 and at most"):
        ProbeConfig(probe=probe, probe_learning_rate=(0.1, rate))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({f"probe_{name}": 0}, f"{name} is 0; it must be at least 1") for name in ("epochs", "batch", "seeds")),
        *(({name: 0}, f"{name} is 0; it must be at least 1") for name in ("probe_iterations", "knn_neighbors")),
        ({"probe": "lbfgs", "probe_l2": -0.1}, "probe_l2 is -0.1; it must be at least 0"),
        ({"features": ()}, "features are not given"),
        ({"features": "encoder"}, "it must be a list of strings"),
        ({"probe": "finetune", "probe_fraction": (1.1,)}, "probe_fraction is 1.1; give shares above 0 and at most 1"),
    ],
)
def test_wrong_settings_of_a_probe_are_refused_and_minimal_ones_accepted(change, message):
    with pytest.raises(ValueError, match=message):
        ProbeConfig(**{"probe": "sgd"} | change)
    assert ProbeConfig(probe_l2=0.0, knn_neighbors=1).name == "lbfgs(l2=0,knn_neighbours=1)"
    assert ProbeConfig(probe="sgd-raw", probe_iterations=1, probe_batch=1).name == "sgd-raw(iterations=1,batch=1)"
    assert ProbeConfig(probe="sgd-raw", probe_epochs=1).name == "sgd-raw(epochs=1)"


def test_probe_flags_restore_the_probe_from_the_settings_of_a_row():
    for asked in (
        *(ProbeConfig(probe=probe) for probe in choices(ProbeConfig, "probe")),
        ProbeConfig(probe="sgd", probe_learning_rate=(0.5,), probe_batch=64, knn_neighbors=5),
        ProbeConfig(probe="sgd-raw", probe_learning_rate=(0.5,), probe_epochs=7),
        ProbeConfig(probe_l2=0.5),
        ProbeConfig(probe="sgd-raw", probe_iterations=30_000),
        ProbeConfig(probe="lbfgs-path", probe_seeds=4),
        *ProbeConfig(probe="finetune", probe_fraction=(0.05, 1.0), probe_learning_rate=(0.3,), probe_seeds=2).each(),
    ):
        again = ProbeConfig(**probe_flags(asked.settings() | {"chosen_learning_rate": 3.0, "data_fingerprint": "x"}))
        assert again == asked.each()[0], "what is not in the row has its default"
        assert (again.name, again.settings()) == (asked.name, asked.settings())
    before = {"probe": "sgd", "probe_learning_rate": 0.3, "probe_epochs": 100, "probe_batch": 1024, "probe_l2": 0.001}
    assert ProbeConfig(**probe_flags(before)).name == "sgd-raw(learning_rate=0.3)"
