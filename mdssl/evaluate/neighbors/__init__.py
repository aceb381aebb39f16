"""Nearest neighbors of images in the feature space of an encoder."""
