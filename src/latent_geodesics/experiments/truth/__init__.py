"""Sequences held against the true in-between frames of a motion: errors frame by frame, tables, figures, verdicts."""

from latent_geodesics.experiments.truth.floor import FloorError

__all__ = ["FloorError"]
