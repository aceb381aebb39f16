"""What one trial is, how it is run and scored, and defaults by name."""

from mdssl.config.run import ProbeConfig, RunSettings
from mdssl.config.trial import TrialConfig

__all__ = ["ProbeConfig", "RunSettings", "TrialConfig"]
