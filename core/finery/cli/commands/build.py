"""`finery build`: make what a recipe declares."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import closing, nullcontext, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finery.builder import uptodate as stamp
from finery.cli.console import print_error, print_json, print_note, print_progress
from finery.cli.options import complete_steps, json_option, matrix_option, recipe_and_steps
from finery.errors import FineryError, RemoteError, UsageError
from finery.util.paths import plain_path
from finery.util.text import accepted_suffix, cost_words, counted, rough_duration

if TYPE_CHECKING:
    from finery.builder.scheduler import Build
    from finery.execute.executor import Executor
    from finery.util.events import Event

INTERRUPTED = (
    "interrupted. Finished steps are kept, and so are trainings up to their last checkpoint. Build "
    "again to continue."
)
INTERRUPTED_CODE = 130
LOOK_SECONDS = 0.5
"""Seconds between two looks of `--watch` at the files."""


@click.command("build")
@recipe_and_steps
@matrix_option
@click.option(
    "--jobs", "-j", type=click.IntRange(1, 512),
    help="Steps to run in parallel. [default: one light step per core, heavy steps one by one]",
)  # fmt: skip
@click.option(
    "--keep-going", "-k", is_flag=True,
    help="After a failure, build the steps that don't depend on it.",
)  # fmt: skip
@click.option(
    "--force", "-f", multiple=True, metavar="STEP", shell_complete=complete_steps,
    help="Run STEP again even if it is cached, and compare its output. Repeatable.",
)  # fmt: skip
@click.option(
    "--update-lock", is_flag=True,
    help="Resolve branch names on the hub and environments again, and update recipe.lock.",
)  # fmt: skip
@click.option(
    "--executor",
    help="The executor for steps without one in `executors` of finery.toml. [default: local]",
)
@click.option(
    "--watch", is_flag=True,
    help="Build again each time the recipe or a file that it uses changes, until Ctrl-C.",
)  # fmt: skip
@click.option("--remote", metavar="URL", help="The shared store, e.g. s3://bucket/prefix.")
@click.option(
    "--push/--no-push", default=None,
    help="Copy what is built to the shared store, or not. [default: only in CI]",
)  # fmt: skip
@click.option(
    "--fetch", type=click.Choice(["none", "final", "all"]),
    help="Which outputs to copy here that only the shared store has: none, those of steps that no "
    "other step uses, or all. [default: final]",
)  # fmt: skip
@json_option
def command(
    recipe: Path, steps: tuple[str, ...], overrides: tuple[str, ...], jobs: int | None,
    keep_going: bool, force: tuple[str, ...], update_lock: bool, executor: str | None, watch: bool,
    as_json: bool, **sharing: Any,
) -> int:  # fmt: skip
    """Build RECIPE, or only STEP and what it needs. Only steps that changed run again."""
    shares = any(value is not None for value in sharing.values())
    looks = update_lock or watch or shares or force
    if not looks and _is_done(recipe, steps, overrides, as_json=as_json):
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    began, build = time.time_ns(), None
    try:
        build = _build_of(
            recipe, steps, overrides, executor, jobs, force, sharing, keep_going=keep_going,
            update_lock=update_lock,
        )  # fmt: skip
        # With another setting for once, the next build has something to copy.
        keeps_stamp = sharing["fetch"] is None
        code = _run(build, steps, overrides, as_json=as_json, keeps_stamp=keeps_stamp)
        if sharing["push"] and code == 0 and not build.sharing.has_pushed:
            raise RemoteError(
                "the build isn't completely in the shared store, although --push was given",
                fix="see the warning above, and run it again",
            )
    except FineryError as error:
        if not watch:
            raise
        print_error(error)
        code = error.exit_code
    if watch and code != INTERRUPTED_CODE:
        code = 0
        if _wait_for_change(recipe, build, began):
            text = f"{time.strftime('%H:%M:%S')} A file changed. Building again."
            click.secho(text, dim=True, err=True)
            os.execv(sys.executable, sys.orig_argv)  # a new process imports changed plugins
    return code


def _run(
    build: "Build", steps: tuple[str, ...], overrides: tuple[str, ...], *, as_json: bool,
    keeps_stamp: bool,
) -> int:  # fmt: skip
    """Run a build and print its progress and summary; the exit code.

    keeps_stamp: whether the next build does nothing if nothing has changed.
    """
    from finery.cli.progress import listener
    from finery.cli.summary import print_summary, verdict_events

    if not as_json:
        from finery.builder.checks import obstacles

        for note in obstacles(build.graph):  # what a later step will fail at
            print_note(note.text, note.fix, err=True)
        _suggest_rehearsal(build)
    if steps and not as_json:
        it_needs = "it needs" if len(steps) == 1 else "they need"
        options = " ".join(f"--step {step}" for step in steps)
        click.secho(f"only {', '.join(steps)} and what {it_needs} ({options})", dim=True, err=True)
    verdicts: list[Event] = []

    def print_event(event: "Event") -> None:
        if event["event"] == "build_finished" and event["exit_code"] != INTERRUPTED_CODE:
            verdicts.extend(verdict_events(build))
        for each in (*verdicts, event):  # verdicts come before the last event
            print_json(each)

    view: Any = print_event if as_json else listener(sys.stderr, build.graph)
    build.listeners.append(view)
    try:
        with nullcontext() if as_json else closing(view):
            outcome = build.run()
    except KeyboardInterrupt:
        _decide_about_jobs(build.executor)
        click.echo(click.wrap_text(INTERRUPTED, shutil.get_terminal_size().columns), err=True)
        return INTERRUPTED_CODE
    is_done = len(outcome.results) == len(build.graph.nodes) and not outcome.errors
    if keeps_stamp and is_done and build.sharing.is_complete:
        stamp.write_stamp(build, steps, overrides, verdicts if as_json else None)
    if not as_json:
        print_summary(build, outcome)
    return outcome.exit_code


def _suggest_rehearsal(build: "Build") -> None:
    """Suggest one before a long build of a recipe that wasn't rehearsed as it is."""
    from finery.preflight.rehearsal import seconds_without_rehearsal

    if seconds := seconds_without_rehearsal(build.planner):
        text = f"this build takes about {rough_duration(seconds)}, and the recipe as it is wasn't"
        fix = f"finery rehearse {build.graph.recipe.argument}".rstrip()
        print_note(f"{text} rehearsed", f"{fix}  (about a minute)", err=True)


def _decide_about_jobs(executor: "Executor") -> None:
    """Ask whether to cancel jobs that continue without the build; by default, they continue."""
    from finery.execute.executor import Detached

    running = executor.left() if isinstance(executor, Detached) else []
    if not isinstance(executor, Detached) or not running:
        return
    jobs = counted(len(running), "job")
    if sys.stdin.isatty() and sys.stderr.isatty():
        the, them = ("job", "it") if len(running) == 1 else (jobs, "them")
        question = f"Cancel the {the}, or leave {them} running? [c/L]"
        with suppress(KeyboardInterrupt, click.Abort):
            if click.prompt(question, "l", show_default=False, err=True).lower() == "c":
                executor.cancel()
                click.echo(f"{jobs} cancelled", err=True)
                return
    click.echo(f"{jobs} left running, which the next build continues with:", err=True)
    for line in running:
        click.echo(f"  {line}", err=True)
    click.echo(f"To cancel: {executor.how_to_cancel()}", err=True)


def _wait_for_change(recipe: Path, build: "Build | None", began: int) -> bool:
    """Wait until a file changes; False after Ctrl-C.

    build: None if the recipe can't be built; a file near it may repair it. began: when finery began
    to read the files, in nanoseconds since the epoch.
    """
    written = set()
    if build is None:
        folder = plain_path(recipe).parent
        near = {f"{escape(str(folder))}/{each}" for each in ("[!._]*", "[!._]*/[!._]*")}
        sources = stamp.Sources(set(), {str(folder), str(plain_path(recipe))}, near)
    else:
        sources = stamp.sources_of(build)
        written.add(str(plain_path(build.planner.lock.path)))
    click.secho("Watching the recipe and its files. Press Ctrl-C to stop.", dim=True, err=True)
    try:
        before = sources.states()
        while not sources.changed_since(began, written) and sources.states() == before:
            time.sleep(LOOK_SECONDS)
        while (now := sources.states()) != before:  # until an editor has written all files
            before = now
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        return False
    return True


def _is_done(
    recipe: Path, steps: tuple[str, ...], overrides: tuple[str, ...], *, as_json: bool
) -> bool:
    """Whether the stamp of the last build shows that there is nothing to do. If so, prints that."""
    if as_json:
        events = stamp.events_if_done(recipe, steps, overrides, time.perf_counter())
        if events is not None:
            click.echo(events, nl=False)
        return events is not None
    finished = stamp.finished_if_done(recipe, steps, overrides)
    if finished is not None:
        text = f"{counted(finished.steps, 'step')}, nothing to do"
        text += accepted_suffix(finished.accepted) + cost_words(finished.dollars)
        click.secho(text, fg="green", err=True)
    return finished is not None


def _build_of(
    recipe: Path, steps: tuple[str, ...], overrides: tuple[str, ...], executor: str | None,
    jobs: int | None, force: tuple[str, ...], sharing: Mapping[str, Any], **flags: Any,
) -> "Build":  # fmt: skip
    """The build of a recipe, after all checks that need no build."""
    from finery.builder.dispatch import need_of
    from finery.builder.examine import Examiner
    from finery.builder.outputs import refuse_shared_folder
    from finery.builder.plan import StepPlan
    from finery.builder.project import open_graph, open_store
    from finery.builder.scheduler import Build
    from finery.config import load_config, settings_in_force
    from finery.execute.routing import Router, check_executors
    from finery.recipe.validate import raise_all

    config = load_config(recipe, **sharing)
    if sharing.get("push") and not config.remote:
        raise UsageError(
            "there is no shared store to push to",
            where="--push",
            fix="name one with --remote URL, or set remote in finery.toml",
        )
    began = time.time_ns()  # what changes from now on may not be what the graph was made of
    store = open_store(recipe)
    settings = settings_in_force(recipe, **sharing)
    runner = Router(settings, store.root, jobs, executor)
    try:
        graph = open_graph(recipe, overrides, store).select(steps)
        forced = [each for name in force for each in graph.variants_of(name) or [name]]
        for name in forced:
            graph.require_runnable(name)
        refuse_shared_folder(graph.recipe, store)
        examiner = Examiner(graph)
        raise_all(examiner.errors(print_progress))  # report wrong paths before any step runs
        plans = (StepPlan(node, "pending") for node in graph.nodes.values())
        check_executors(settings, graph.plugins, graph.recipe, store.recipes().values())
        runner.use(graph.plugins, map(need_of, plans))
        return Build(
            graph, store, runner, force=forced, **flags,
            states=stamp.states_before(store, recipe, steps, overrides), began=began,
            config=config, examiner=examiner,
        )  # fmt: skip
    except BaseException:
        runner.close()
        raise
