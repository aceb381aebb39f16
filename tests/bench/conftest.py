import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def folder():
    """Puts bench/ on ``sys.path``, as Python does for a script there, so that the scripts can import each other."""
    sys.path.insert(0, str(BENCH))
    yield
    sys.path.remove(str(BENCH))
