"""Evaluation: scores, thresholds and metrics of a trained state; writes no reports."""
