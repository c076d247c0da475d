"""Data sets: examples, labels, splits, token ids, batches."""
