"""Contrastive data: a model's answers under opposite instructions."""
