"""The command line: a module a command, what they share, the entry of Hydra's sweeps, reproduce."""
