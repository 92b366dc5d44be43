"""Deltas applied: to checkpoints on disk, streamed, and to models in memory, with the same bits."""
