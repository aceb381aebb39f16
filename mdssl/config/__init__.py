"""Settings of a trial, of its run and of its evaluation; methods and presets."""

from mdssl.config.probe import ProbeConfig
from mdssl.config.run import RunSettings
from mdssl.config.trial import TrialConfig

__all__ = ["ProbeConfig", "RunSettings", "TrialConfig"]
