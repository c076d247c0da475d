"""The tables of the paper and of our own experiments."""
