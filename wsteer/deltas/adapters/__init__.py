"""PEFT adapter folders: read as changes of weights, and written."""
