"""Models that run: loaded, prompted in their chat template, answering in batches."""
