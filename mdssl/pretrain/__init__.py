"""Training: from domain batches to an encoder. Plain PyTorch; nothing here knows that Ray exists."""
