"""Errors whose message is complete for the user: the expected value, the actual one, the remedy."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be run; its text names the key, the value and the allowed values."""


class RunError(RuntimeError):
    """A run or record that cannot be used; its text is complete for the user."""


class DataError(ValueError):
    """Data that cannot be used; its text names the file, the fault and the remedy."""
