"""The command line: the only code that knows typer, rich, stdout and exit codes."""
