"""Checkpoints on disk and on the Hub, known from their headers, and the names of their parameters."""
