"""The command ``mdssl``."""
