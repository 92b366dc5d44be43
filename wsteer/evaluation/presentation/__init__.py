"""An evaluation as files to read and to look at."""
