"""A frozen encoder's scores: features once per dataset, then linear probes and kNN on them. Knows nothing of Ray."""
