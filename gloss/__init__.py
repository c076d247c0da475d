"""G-Loss: graph-guided fine-tuning of text encoders. The losses alone need nothing but torch: `gloss.losses`."""

__version__ = "0.1.0"
