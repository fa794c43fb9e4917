"""`finery plugin catalog`: a site about the plugins of a list."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from finery.errors import UsageError
from finery.util.paths import shown
from finery.util.text import counted, visible

if TYPE_CHECKING:
    from finery.cli.catalog.collect import Entry


@click.command("catalog")
@click.argument("source", metavar="LIST", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--wheels", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Install from this folder of wheels, without an index.",
)  # fmt: skip
@click.option(
    "--seconds", type=click.IntRange(0), default=900, show_default=True,
    help="Time limit for the contracts of a distribution; 0 runs none.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Exit code 1 if a plugin has a problem.")
def command(source: Path, out: Path, wheels: Path | None, seconds: int, strict: bool) -> int:
    """Check the plugins of LIST, and write a site about them into OUT.

    LIST is a file with a requirement per line, or a folder of wheels. Each distribution is
    installed in an environment of its own, which runs its code. OUT is a new folder or an earlier
    catalogue: what hasn't changed since is not installed again.
    """
    from finery.cli.catalog.collect import collect, read_list
    from finery.cli.catalog.pages import listings, read_previous, write_site

    listed, previous = read_list(source), read_previous(out)

    def report(entry: "Entry", is_kept: bool) -> None:
        found = [*listings([entry])]
        checks = ", ".join(dict.fromkeys(each.checks for each in found))
        words = f"checks: {checks}; contract: {entry.contracts.verdict}"
        note = " (unchanged)" if is_kept else ""
        click.echo(f"{visible(entry.requirement)}  {words}{note}", err=True)

    entries = collect(listed, str(wheels.resolve()) if wheels else "", seconds, previous, report)
    try:
        plugins = write_site(entries, out)
    except OSError as error:
        raise UsageError(
            f"can't write: {error}", where=shown(out), fix="name another folder"
        ) from error
    bad = [each.name for each in plugins if each.tones[0] != "good" or each.tones[1] == "bad"]
    count = counted(len(plugins), "plugin")
    click.echo(f"{shown(out / 'index.html')}: {count}, {len(bad)} with problems")
    return 1 if strict and bad else 0
