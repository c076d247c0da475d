"""The encoder: unpadded batches, loading pretrained weights, saved models and their card."""
