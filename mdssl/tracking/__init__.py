"""Trials in TensorBoard, Weights & Biases and MLflow: one module for each, and one that serves those asked for."""
