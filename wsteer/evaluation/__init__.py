"""Evaluate a model while a delta is applied: tasks, scorers, intervals, results and pictures."""
