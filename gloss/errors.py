"""The errors whose message is complete for the user: what was expected, what came, what to do."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be run; its text names the key, the value and what is allowed."""


class RunError(RuntimeError):
    """A run or record that cannot be used; its text is complete for the user."""


class DataError(ValueError):
    """Data that cannot be used; its text names the file, what is wrong and what to do."""
