"""One run: the objective, the training loop, metrics, the probe, checkpoints, the progress bar."""
