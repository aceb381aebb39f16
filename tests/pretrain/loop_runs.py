"""What tests of training share: settings of short runs, and what a run leaves behind."""

import pandas as pd
import safetensors
import safetensors.torch

from mdssl.config.run import RunSettings

EVERY_STEP = RunSettings(report_every=1, checkpoint_seconds=0)
AT_THE_END = RunSettings(report_every=1, checkpoint_seconds=1000)
"""These runs write one checkpoint."""


def weights(folder):
    return safetensors.torch.load((folder / "encoder.safetensors").read_bytes())


def losses(folder):
    return pd.read_parquet(folder / "metrics.parquet").drop(columns="views_per_second")
