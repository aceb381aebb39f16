"""Training: from domain batches to an encoder. Plain PyTorch, without Ray."""
