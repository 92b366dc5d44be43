"""Careless and hostile uses, by the part of wsteer that meets them: the table of tests/test_promises.py."""
