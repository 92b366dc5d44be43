"""Evaluation tasks: `task` reads them; the built-in ones are YAML files in this folder."""
