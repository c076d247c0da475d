"""The Optuna study: its trials, where it is stored, the best values it leaves behind."""
