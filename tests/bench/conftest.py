import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def folder():
    """bench/ is a folder of scripts, which find each other as Python starts them."""
    sys.path.insert(0, str(BENCH))
    yield
    sys.path.remove(str(BENCH))
