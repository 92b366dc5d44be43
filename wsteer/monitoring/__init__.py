"""Cosines between changes of weights: tables with a noise floor, trajectories of runs, gates, projections."""
