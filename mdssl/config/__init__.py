"""Settings of a trial, of its run and of its evaluation; methods and presets."""

from mdssl.config.run import ProbeConfig, RunSettings
from mdssl.config.trial import TrialConfig

__all__ = ["ProbeConfig", "RunSettings", "TrialConfig"]
