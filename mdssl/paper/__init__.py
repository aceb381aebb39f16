"""Comparison with the paper's published numbers."""
