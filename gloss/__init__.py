"""G-Loss: graph-guided fine-tuning of text encoders. The losses alone need nothing but torch: `gloss.losses`."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load_runs"]


def __getattr__(name: str) -> Any:
    """Import `load_runs` on first use, so that the losses need nothing but torch."""
    if name == "load_runs":
        from gloss.records.frame import load_runs

        return load_runs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
