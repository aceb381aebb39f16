"""Evaluate frozen encoders: features once per dataset, then linear probes and kNN on them. Does not import Ray."""
