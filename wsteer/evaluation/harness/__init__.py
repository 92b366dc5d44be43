"""Tasks of lm-evaluation-harness on the model in memory."""
