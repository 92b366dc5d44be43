"""Files of all kinds, read and written: tensors, rows, JSON, CSV, pictures; whole or not at all, with their records."""
