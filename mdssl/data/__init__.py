"""Prepare datasets: convert each source once to memory-mapped arrays of images and labels."""
