"""Training steps timed beside baselines."""
