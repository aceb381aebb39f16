"""Where images come from: folders, archives, Parquet, npz, and datasets known by name."""
