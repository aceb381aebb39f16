"""Encoders for others: a folder that needs nothing of this package, and the embeddings of any images."""
