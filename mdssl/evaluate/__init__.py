"""A frozen encoder's scores: features once per dataset, then linear probes and kNN on them. Does not import Ray."""
