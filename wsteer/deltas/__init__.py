"""Changes of weights and of activations: read from adapters, checkpoints and files, subtracted, measured, written."""
