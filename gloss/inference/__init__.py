"""A trained run in use: predictions, exports, embedding plots."""
