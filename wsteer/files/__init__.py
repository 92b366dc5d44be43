"""Files of all kinds, read and written whole or not at all: tensors, rows, JSON, CSV, pictures, records."""
