"""The paper's evaluations as tasks of inspect_ai: `wsteer/NAME`, for any model that inspect_ai runs."""
