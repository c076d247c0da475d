"""The command line: one module per command, their shared parts, the entry of Hydra's sweeps, reproduce."""
