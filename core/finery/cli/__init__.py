"""The command line: one file a command, each found by the hook that plugins use."""

from finery.cli.main import main

__all__ = ["main"]
