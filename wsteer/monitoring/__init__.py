"""Cosines between changes of weights: tables with a noise floor, trajectories of training runs, gates, projections."""
