"""A trained run in one's own program: `from gloss.predict import load_run`."""

from gloss.inference.predictor import Prediction, Run, load_run

__all__ = ["Prediction", "Run", "load_run"]
