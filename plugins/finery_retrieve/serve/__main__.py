"""Answers questions about the documents of a bundle: what its `run.sh` starts."""

import sys
from pathlib import Path

import click

from finery import Bundle, FineryError
from finery_retrieve.serve.bundle import read_settings
from finery_retrieve.serve.running import serve_bundle
from finery_serve.command import PORT, serve_until_stopped
from finery_serve.standalone_server import LOOPBACK


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".",
    metavar="[FOLDER]",
)  # fmt: skip
@click.option(
    "--host", default=LOOPBACK[0], show_default=True, envvar="SERVE_HOST", show_envvar=True,
    help="Address to listen on. Any that other machines reach demands a key: the variable "
    "SERVE_KEY, else a new one, which is printed.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, envvar="SERVE_PORT",
    show_envvar=True, help="Port; 0 takes any free one.",
)  # fmt: skip
def command(folder: Path, host: str, port: int) -> None:
    """Answer questions about documents, with their sources."""
    name = read_settings(folder).name
    bundle = Bundle(folder.absolute(), meta={"format": "retrieve"})
    serve_until_stopped(serve_bundle, bundle, name, host=host, port=port)


def main() -> int:
    """Serve until Ctrl-C; the exit code."""
    try:
        command.main(prog_name="sh run.sh", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FineryError as error:
        click.echo(str(error), err=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
