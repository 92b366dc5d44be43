"""Activations of the residual stream: recorded, and subtracted into activation vectors."""
