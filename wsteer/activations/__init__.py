"""Activations of the residual stream, recorded, and the vectors that are their differences."""
