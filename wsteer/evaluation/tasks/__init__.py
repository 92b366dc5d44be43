"""Evaluation tasks: `task` reads them; the built-in ones stand beside it as YAML."""
