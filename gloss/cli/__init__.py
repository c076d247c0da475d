"""The command line: Hydra entry, arguments, exit statuses, reproduce."""
