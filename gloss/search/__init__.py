"""The Optuna study: its trials, its storage, the best values that it found."""
