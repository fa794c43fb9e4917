"""Why a step fails that raised no error: its process died, or what it reads changed meanwhile."""

import os
import signal
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path

from finery.builder.plan import Planner, StepPlan
from finery.errors import DataError, StepError
from finery.execute.executor import Died, Done
from finery.util.files import FileState, file_state, folder_state, is_moved
from finery.util.paths import plain_path, shown


def death_of(plan: StepPlan, event: Died, log: str) -> StepError:
    """The error for the death of a step's worker."""
    code, fix = event["code"], event.get("fix")
    has_log = os.path.exists(log) and os.path.getsize(log) > 0
    see = f"see {log}" if has_log else "its log is empty"
    if "reason" in event:
        kept = f"{see}; what the step saved in its scratch folder is kept"
        return StepError(event["reason"], fix=fix or kept)
    if code == -signal.SIGKILL:
        spec = type(plan.node.step).__spec__
        less = "use smaller batches, a shorter max_length or a smaller model, then build again"
        other = "free memory, or give the step less data, then build again"
        return StepError(
            "its process was killed (SIGKILL), usually because memory ran out",
            fix=fix or (less if spec.learns or spec.engines else other),
        )
    if code == -signal.SIGPROF:  # see `finery.rows.templates.limits`
        return StepError(
            "a template or pattern ran for too long on one row, and could only be stopped by "
            "ending the step's process",
            fix="write fewer or shorter loops and lists in the templates of this step",
        )
    if code >= 0:
        return StepError(
            f"its process ended with exit code {code} before the step was done",
            fix=f"{see}; a step must return, not call os._exit",
        )
    return StepError(f"its process died ({signal.Signals(-code).name})", fix=see)


def check_code(plan: StepPlan, planner: Planner) -> None:
    """Refuse to run code that has changed since its key was computed."""
    changed = planner.code.changed(plan.code)
    if changed:
        raise StepError(
            f"its code changed since the build began: {', '.join(changed)}", fix="build again"
        )


_real = lru_cache(maxsize=4096)(os.path.realpath)


def code_states(plan: StepPlan) -> dict[str, FileState]:
    """The states of the files of a step's code, besides installed ones."""
    paths = [path for path in plan.code_files if "site-packages" not in path]
    return {_real(path): file_state(path) for path in paths}


def check_imported(event: Done, checked: Mapping[str, Collection[FileState]]) -> None:
    """Refuse to publish what code made that was saved, imported and restored.

    checked: file → its states whenever it had the digest in keys.
    """
    for path, (state, _) in event.get("code", {}).items():
        if path in checked and tuple(state) not in checked[path]:
            raise StepError(
                f"its code was changed for a while: {shown(Path(path))}", fix="build again"
            )


def outside_states(plan: StepPlan, planner: Planner) -> dict[Path, FileState]:
    """The states of a step's outside files, and of the folders that lead to them."""
    paths = [path for files in plan.files.values() for _, path in files]
    folders = {f for p in {path.parent for path in paths} for f in (p, *p.parents)}
    recipe = plain_path(planner.graph.recipe.path)
    states = {path: file_state(str(path)) for path in paths}
    return states | {f: folder_state(str(f)) for f in folders.difference(recipe.parents)}


def check_outside(plan: StepPlan, planner: Planner, before: Mapping[Path, FileState]) -> None:
    """Refuse to publish what was made from files that changed under the step.

    before: `outside_states` when it started.
    """
    parts = dict(plan.parts)
    for setting, files in plan.files.items():
        for name, path in files:
            # A file that was changed and restored may have been read in between.
            same = file_state(str(path)) == before[path]
            try:
                digest = planner.store.digest_file(path)
            except DataError:  # it is gone
                digest = ""
            if not same or parts[f"file {setting} {name}"] != digest:
                raise StepError(f"changed while the step was reading it: {name}", fix="build again")
    for folder in before.keys() - {path for files in plan.files.values() for _, path in files}:
        if is_moved(before[folder], folder_state(str(folder))):
            raise StepError(
                f"moved while the step was reading from it: {shown(folder)}", fix="build again"
            )
