"""Sweeps: the only room that knows Ray. A grid of trials, one trial, its probe actor, and the launch of them all."""
