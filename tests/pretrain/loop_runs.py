"""Helpers of tests of training: settings of short runs, and readers of the files that a run writes."""

import pandas as pd
import safetensors
import safetensors.torch

from mdssl.config.run import RunSettings

EVERY_STEP = RunSettings(report_every=1, checkpoint_seconds=0)
AT_THE_END = RunSettings(report_every=1, checkpoint_seconds=1000)
"""Runs with these settings write one checkpoint, at their end."""


def weights(folder):
    return safetensors.torch.load((folder / "encoder.safetensors").read_bytes())


def losses(folder):
    return pd.read_parquet(folder / "metrics.parquet").drop(columns="views_per_second")
