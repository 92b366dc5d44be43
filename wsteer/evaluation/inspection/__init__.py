"""Tasks of inspect_ai on the model in memory, and the model for inspect's own commands."""
