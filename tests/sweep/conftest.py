import pytest
import sweep_runs
from factories import CONTEXT
from grid_parts import METHODS, score

from mdssl.leaderboard.board import write_rows
from mdssl.pretrain.loop import train
from mdssl.storage.location import Location
from mdssl.sweep.grid import trials
from mdssl.sweep.settings import SweepSettings
from mdssl.trials.rows import finished_row


@pytest.fixture
def another_ray():
    """A second, idle Ray cluster on this machine."""
    with sweep_runs.running_ray(1, dashboard=False):
        yield


@pytest.fixture
def settings(tiny_data):
    return SweepSettings(
        domains=("tiny-a", "tiny-b"),
        evaluate=("tiny-a", "tiny-c"),
        arch="resnet18",
        batch_per_domain=8,
        iterations=2,
        data=tiny_data,
        precision="fp32",
    )


@pytest.fixture
def trained(settings, tmp_path):
    """A storage with a trained mdssl trial and its row on tiny-a."""
    storage = Location.of(tmp_path)
    config = trials(settings, METHODS[2:])[0]
    trial_dir = storage / "trials" / config.trial_id
    training = train(config, data=settings.data, trial_dir=trial_dir, device="cpu")
    row = finished_row(config, training, score(settings, "tiny-a"), context=CONTEXT, trial_dir=trial_dir)
    write_rows(storage, config.trial_id, [row])
    return storage, config, row
