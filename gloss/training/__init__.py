"""One run: the objective, the training loop, metrics, the probe, checkpoints, callbacks, the live view."""
