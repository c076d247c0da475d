"""The process and its machine: atomic files, signals, device, timing, GPU sharing, terminal."""
