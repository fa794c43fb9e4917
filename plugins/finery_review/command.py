"""`finery review STEP`: a page to decide on a step's rows."""

import getpass
import os
import secrets
import subprocess
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finery import UsageError
from finery.advanced import counted, json_option, matrix_option, print_json, recipe_and_step, shown

if TYPE_CHECKING:
    from finery_review.serving.opened import Opened


@click.command("review")
@recipe_and_step
@matrix_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port on 127.0.0.1. [default: any free port]",
)
@click.option("--no-open", is_flag=True, help="Don't open a browser.")
@click.option("--reviewer", metavar="NAME", help="Name of the reviewer. [default: git's user.name]")
@click.option("--status", is_flag=True, help="Only print how many rows are decided.")
@json_option
def command(
    step: str,
    recipe: Path,
    overrides: tuple[str, ...],
    port: int,
    no_open: bool,
    reviewer: str | None,
    status: bool,
    as_json: bool,
) -> None:
    """Review the rows of STEP on a page in the browser: accept, reject, edit, swap.

    Decisions are saved next to the recipe: in the file that `review.apply` on these rows names, or
    else in reviews/STEP.jsonl. STEP may also be the `review.apply`. Ctrl-C ends the review. See
    docs/howto/review.md.
    """
    from finery_review.serving.opened import open_review

    if as_json and not status:
        raise UsageError("--json needs --status", fix=f"finery review {step} --status --json")
    opened = open_review(step, recipe, overrides, reviewer or _reviewer(recipe))
    if not opened.fresh:
        text = "not up to date: these are the rows of the last build (see `finery plan`)"
        click.secho(text, fg="yellow", err=True)
    if not status:
        _serve(opened, port, no_open)
    if as_json:
        print_json(opened.facts())
    else:
        from finery_review.decisions import on_rows_gone

        facts = opened.facts()
        words = ("accepted", "rejected", "edited", "swapped")
        status_counts = ", ".join(f"{facts[word]} {word}" for word in words if facts[word])
        here_note = f" ({facts['here']} now)" if facts["here"] else ""
        click.echo(
            f"{facts['decided']} of {facts['rows']} rows decided{here_note}"
            f"{f': {status_counts}' if status_counts else ''}; {facts['undecided']} undecided"
        )
        for notice in opened.log.notices:
            click.secho(notice, fg="yellow")
        if facts["gone"]:
            stale = f"; {counted(facts['stale'], 'row')} may be their changed versions (stale)"
            click.echo(on_rows_gone(facts["gone"]) + (stale if facts["stale"] else ""))
        if facts["decided"] and opened.applied_by:
            click.echo(f"finery build   applies them in {opened.applied_by}")
        elif facts["decided"]:
            click.echo(
                "To apply them, add this step to the recipe and use its rows in the steps after it:"
            )
            click.echo(f"  {opened.step_to_add()}")
    opened.close()


def _serve(opened: "Opened", port: int, no_open: bool) -> None:
    try:
        from finery_review.serving.server import application, serve
        from finery_serve.processes import Address
    except ImportError as error:
        raise UsageError(
            f"the page needs {error.name}, which isn't installed",
            fix="pip install 'finery[review]'",
        ) from error
    bound, token = Address(port=port).listening(), secrets.token_urlsafe(32)
    port = bound.getsockname()[1]
    address = f"http://127.0.0.1:{port}/?token={token}"
    click.echo(f"{address}\n{opened.ref}: {counted(len(opened.session.rows), 'row')}. ", nl=False)
    click.echo(f"Decisions go to {shown(opened.log.path)}. Ctrl-C ends the review.")
    sys.stdout.flush()
    with _browser(address) if not no_open and _has_browser() else nullcontext():
        serve(application(opened.session, opened.title, port, token), bound)
    click.echo()


def _reviewer(recipe: Path) -> str:
    """The user's name in git, else the name of the account."""
    with suppress(OSError, subprocess.SubprocessError):
        ask = ["git", "config", "user.name"]
        folder = recipe.absolute().parent
        answer = subprocess.run(ask, cwd=folder, capture_output=True, text=True, timeout=10)
        if answer.stdout.strip():
            return answer.stdout.strip()
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return ""


def _has_browser() -> bool:
    """Whether there is a terminal, and a browser that opens a window."""
    if not sys.stdout.isatty():
        return False
    graphical = sys.platform == "darwin" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    try:
        return graphical and webbrowser.get() is not None
    except webbrowser.Error:
        return False


@contextmanager
def _browser(address: str) -> Iterator[None]:
    """Open the page through a file that only this user can read.

    Other users of the machine can see a browser's arguments, so the token can't be one of them.
    """
    with tempfile.NamedTemporaryFile("w", prefix="finery-review-", suffix=".html") as page:
        page.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">')
        page.flush()
        webbrowser.open(Path(page.name).as_uri())
        yield
