import pytest
import sweep_runs


@pytest.fixture
def another_ray():
    """A second, idle Ray cluster on this machine."""
    with sweep_runs.running_ray(1, dashboard=False):
        yield
