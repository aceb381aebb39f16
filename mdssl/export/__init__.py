"""Export of encoders to a folder that does not need this package, and of embeddings of any images."""
