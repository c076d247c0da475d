"""The figures of the paper and of our own experiments."""
