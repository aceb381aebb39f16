"""Trials in TensorBoard, Weights & Biases and MLflow: a module for each, and `trackers`, which runs them."""
