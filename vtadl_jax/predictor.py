"""Alias of `Predictor` for programs written for version 0.1; new ones import from `vtadl_jax`."""

from vtadl_jax.evaluation.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]
