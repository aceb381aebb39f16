"""Where commands look for data and results when no flag says so."""

import os

DATA = os.environ.get("MDSSL_DATA", "data")
STORAGE = os.environ.get("MDSSL_STORAGE", "results")
