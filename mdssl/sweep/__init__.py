"""Sweeps, the only package that uses Ray: grids and searches, trials, the probe actor, and the launch."""
