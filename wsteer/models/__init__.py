"""Models that run: they are loaded, prompted in their chat template, and answer in batches."""
