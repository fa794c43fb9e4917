"""The command."""

from pathlib import Path

import click


@click.command("probe")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
def probe(file: Path) -> None:
    """Count the lines of FILE."""
    click.echo(f"{len(file.read_text(encoding='utf-8').splitlines())} lines")
