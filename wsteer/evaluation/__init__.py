"""Evaluate a model while a delta is applied: tasks, rule-based scorers, intervals, results and the trade-off picture."""
