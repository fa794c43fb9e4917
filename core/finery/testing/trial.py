"""A project with a step of one type, which the `finery` command builds."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from finery.artifact.kinds import Artifact
from finery.artifact.manifest import MANIFEST, Manifest
from finery.errors import FineryError, PluginError
from finery.fields import Files, Settings
from finery.plugin.manager import load_plugins
from finery.recipe.validate import is_name
from finery.step import inspect
from finery.step.step import Step
from finery.testing import given
from finery.testing.imports import with_requirements
from finery.util.installed import (
    code_origin,
    finery_packages,
    is_installed,
    module_owners,
    normalise_name,
)
from finery.util.references import load_reference

if TYPE_CHECKING:
    from finery.builder.plan import Planner, StepPlan

NAME = "trial"
"""The recipe's name."""
SUBJECT = "subject"
"""The name of the step in the recipe."""
KIT = "finery/rows/"
"""The part of the core whose code is in keys."""
SEED = 17
SECRET = "FINERY_TRIAL_SECRET_KEY"
SECRET_VALUE = "trial-secret-5d0c8e51f2a94b37"


class Ran(NamedTuple):
    """The exit code and output of a command."""

    code: int
    out: str
    err: str


class Executed(NamedTuple):
    """How many functions of plugins, of `finery.rows` and of the project a step executed.

    outside: how many others only its methods in `OUTSIDE_KEYS` did, the discovery of plugins, and
    what is marked `outside_key`. missing: (file, name) of those that count, and whose file isn't in
    the step's key: of plugins of others and of the project. Hooks that aren't around steps aren't
    among them.
    """

    functions: int
    outside: int
    missing: list[tuple[str, str]]


class Trial:
    """A folder with a recipe, in which the `finery` command runs.

    env: environment variables of the command, over those of this process. None removes one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env: dict[str, str | None] = {SECRET: SECRET_VALUE}
        self.recipe: dict[str, Any] = {"finery": 1, "name": NAME, "plugins": ["given.py"]}
        self._artifacts: dict[int, tuple[Artifact, str]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".git").mkdir(exist_ok=True)  # makes it the project's folder
        shutil.copyfile(given.__file__, folder / "given.py")

    def add(
        self,
        step: Step,
        name: str = SUBJECT,
        *,
        folder: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        env: Iterable[str] = (),
    ) -> None:
        """Add a step to the recipe, with its inputs.

        folder: what the paths in its settings are relative to, by default the recipe's folder.
        settings: over those of the step, by path, e.g. `{"lora.r": 8}`. env: variables of the
        command that it gets.
        """
        use, file = provided_as(type(step))
        if file is not None and str(file) not in self.recipe["plugins"]:
            self.recipe["plugins"].append(str(file))
        prefix = os.path.relpath(folder or self.folder, self.folder)
        entry = {"use": use, **settings_of(step, prefix), "seed": SEED, "env": [SECRET, *env]}
        for path, slot in inspect.slots_of(step).items():
            value = getattr(slot.owner, slot.field)
            if isinstance(value, list):
                refs: Any = [
                    self._add_artifact(a, f"{slot.field}_{i}") for i, a in enumerate(value)
                ]
            else:
                refs = self._add_artifact(value, slot.field) if value is not None else None
            if refs:
                set_at(entry, path, refs)
        for path, value in (settings or {}).items():
            set_at(entry, path, value)
        self._put(inspect.sections_of(type(step))[0], name, entry)

    def _add_artifact(self, artifact: Artifact, name: str) -> str:
        """Have the recipe provide an artifact; what the recipe calls it."""
        if id(artifact) in self._artifacts:
            return self._artifacts[id(artifact)][1]
        refs = {role: self._add_artifact(ref, role) for role, ref in artifact.refs.items()}
        name = self._free(artifact.ref if is_name(artifact.ref) else name)
        entry: dict[str, Any] = {"use": "given.artifact", "kind": artifact.kind}
        if files := files_in(artifact):
            entry["files"] = [os.path.relpath(path, self.folder) for path in files]
            entry["folder"] = os.path.relpath(artifact.path, self.folder)
        entry |= {"meta": artifact.meta} if artifact.meta else {}
        entry |= {"runtime": artifact.runtime} if artifact.runtime else {}
        if artifact.external:
            entry["external"] = {k: str(path.absolute()) for k, path in artifact.external.items()}
        if refs:
            entry |= {"refs": list(refs.values()), "roles": list(refs)}
        self._put(inspect.SECTIONS_OF[type(artifact)][0], name, entry)
        self._artifacts[id(artifact)] = artifact, name
        return name

    def _put(self, section: str, name: str, entry: dict[str, Any] | None) -> None:
        """Set a step of the recipe, or remove it, and write the recipe."""
        steps = self.recipe.setdefault(section, {})
        steps[name] = entry
        if entry is None:
            del steps[name]
        text = json.dumps(self.recipe, indent=1, ensure_ascii=False)
        (self.folder / "recipe.yaml").write_text(text, encoding="utf-8")

    def _free(self, name: str) -> str:
        """A name that no step of the recipe has yet, and that isn't the subject's."""
        names = (name, *(f"{name}_{i}" for i in range(2, 1000)))
        return next(n for n in names if n != SUBJECT and not self.has(n))

    def run(self, *args: str, cwd: Path | None = None) -> Ran:
        """Run `finery` with these arguments, in the recipe's folder."""
        process = subprocess.run(
            [sys.executable, "-m", "finery", *args],
            cwd=cwd or self.folder, env=self.environment(), capture_output=True, encoding="utf-8",
            errors="replace", stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Ran(process.returncode, process.stdout, process.stderr)

    def environment(self) -> dict[str, str]:
        """The command's environment variables."""
        own = {k: v for k, v in os.environ.items() if not k.startswith("FINERY_")}
        env = {**own, "NO_COLOR": "1", **self.env}
        return {name: value for name, value in env.items() if value is not None}

    def build(self, *args: str, cwd: Path | None = None) -> "Built":
        """Build the recipe."""
        ran = self.run("build", str(self.folder), "--json", *args, cwd=cwd)
        return Built(ran, [json.loads(line) for line in ran.out.split("\n") if line[:1] == "{"])

    def outputs(self, name: str = SUBJECT) -> dict[str, Manifest]:
        """The outputs of a built step, by name; `""` is that of a step with one."""
        folder = self.folder / "build" / NAME / name
        paths = [folder] if (folder / MANIFEST).exists() else sorted(folder.iterdir())
        return {
            "" if path == folder else path.name: msgspec.json.decode(
                (path / MANIFEST).read_bytes(), type=Manifest
            )
            for path in paths
        }

    def is_fine(self) -> bool:
        """Whether the recipe is valid."""
        from finery.builder.project import open_graph

        try:
            open_graph(self.folder / "recipe.yaml")
        except FineryError:
            return False
        return True

    def has(self, name: str) -> bool:
        """Whether the recipe has a step of this name."""
        return any(name in self.recipe.get(section, ()) for section in inspect.SECTIONS)

    @contextmanager
    def _planner(self) -> "Iterator[Planner]":
        """A planner of the recipe with the store of `run`, whatever FINERY_STORE says here."""
        from finery.builder.plan import Planner
        from finery.builder.project import open_graph
        from finery.store.database import Store

        store = Store(self.folder / ".finery")
        try:
            yield Planner(open_graph(self.folder / "recipe.yaml", (), store), store)
        finally:
            store.close()

    def states(self) -> dict[str, str]:
        """Step → what a build would do with it: `cached`, `run` or `pending`."""
        from finery.builder.plan import make_plan

        with self._planner() as planner:
            return {plan.node.name: plan.state for plan in make_plan(planner)}

    def undeclared(self, built: "Built") -> list[str]:
        """The files and folders that the step read in a build besides its inputs."""
        from finery.artifact.manifest import reads_in

        with self._planner() as planner:
            keys = [event["key"] for event in built.of("step_finished")]
            parts = [planner.store.parts_of(key) or [] for key in keys]
            names = [name for each in parts for name, _ in reads_in(each)]
        # `given` imports for all of them, and SQLite's logs belong to their database.
        others = ("package ", "import ", "module ", "places ", "given.py")
        return [
            name for name in names
            if not name.removeprefix("read ").startswith(others)
            and not name.endswith(("-wal", "-journal"))
        ]  # fmt: skip

    def data_outside_key(self, built: "Built") -> list[str]:
        """The data of packages that the step read, and that its key doesn't have.

        They belong to a distribution that doesn't count, or to none: the environment's `share`,
        and the folder of `pyproject.toml` where the plugin is installed from there.
        """
        with self._planner() as planner:
            plan = _plan_of_subject(planner)
            index = planner.code.index
            code = {*plan.code_files} - {*index.own.paths.values()}
            names = [name.removeprefix("package ") for name, _ in plan.parts]
            packages = with_requirements(index, map(normalise_name, names))
        given_files = [path for files in plan.files.values() for _, path in files]
        for artifact, _ in self._artifacts.values():
            given_files += artifact.external.values()
        declared = {os.path.realpath(path) for path in (*code, *map(str, given_files))}
        folders = {
            folder for path in code if code_origin(path) == "" for folder in Path(path).parents
        }
        roots = [folder for folder in folders if (folder / "pyproject.toml").exists()]
        roots.append(Path(sys.prefix, "share"))

        def is_outside(path: str) -> bool:
            if not os.path.isfile(path) or os.path.realpath(path) in declared:
                return False
            if not is_installed(path):
                return any(map(Path(path).is_relative_to, roots))
            top = path.rpartition("-packages/")[2].partition("/")[0]
            is_known = top in finery_packages() or top.endswith(".dist-info")
            return not is_known and packages.isdisjoint(module_owners().get(top, ()))

        logs = [event["message"] for event in built.of("step_log")]
        texts = [log.removeprefix(given.READS) for log in logs if log.startswith(given.READS)]
        paths = [path for text in texts for path in json.loads(text)]
        return [f"package data {path}" for path in filter(is_outside, paths)]

    def executed(self) -> "Executed":
        """The functions that the step executed, as `given.EXECUTED` recorded them."""
        with self._planner() as planner:
            plan = _plan_of_subject(planner)
            own, present = planner.code.index.own.paths, planner.code.present()
            # The key format stands for the rest of the core.
            rest = {p for name, p in own.items() if name[:7] == "finery/" and KIT not in name}
            recorded = Path(self.env[given.EXECUTED] or "").read_text("utf-8").splitlines()
            functions = {
                (file, name.partition(".<")[0], is_counted)
                for line in recorded
                for file, name, is_counted in json.loads(line)
                if file not in rest
                and (file in present or (os.path.isabs(file) and code_origin(file) == ""))
                and Path(file).name != "given.py" and name[0] != "<"
                and (name == "finery_run_step" or not name.startswith("finery_"))
            }  # fmt: skip
        counted = {(file, name) for file, name, is_counted in functions if is_counted}
        missing = {
            (file, name) for file, name in counted if file not in {*plan.code_files, *own.values()}
        }
        return Executed(len(counted), len({f[:2] for f in functions} - counted), sorted(missing))

    def remove(self, step: Step, name: str) -> None:
        """Take a step out of the recipe."""
        self._put(inspect.sections_of(type(step))[0], name, None)

    def output_folder(self, output: str) -> Path:
        """The folder of an output of the step."""
        return self.folder / "build" / NAME / SUBJECT / output

    def leaks(self, built: "Built") -> list[str]:
        """Where the step's secret appears: files of the project, including its store, or the output
        of a build."""
        needle = SECRET_VALUE.encode()
        paths = [p for p in sorted(self.folder.rglob("*")) if p.is_file() and not p.is_symlink()]
        places = [str(p.relative_to(self.folder)) for p in paths if needle in p.read_bytes()]
        printed = {"standard output": built.ran.out, "standard error": built.ran.err}
        return places + [place for place, text in printed.items() if SECRET_VALUE in text]


def _plan_of_subject(planner: "Planner") -> "StepPlan":
    from finery.builder.plan import make_plan

    (plan,) = (plan for plan in make_plan(planner) if plan.node.name == SUBJECT)
    return plan


class Built(NamedTuple):
    """A build: its command and its events."""

    ran: Ran
    events: list[dict[str, Any]]

    @property
    def ok(self) -> bool:
        """Whether every step was built."""
        return bool(self.events) and bool(self.events[-1].get("ok"))

    def of(self, kind: str, step: str = SUBJECT) -> Iterator[dict[str, Any]]:
        """The events of a kind that are about a step."""
        return (e for e in self.events if e["event"] == kind and e.get("step") == step)

    def check(self, step: str) -> None:
        """Raise `AssertionError` unless a step was built."""
        events = [*self.of("step_finished", step), *self.of("step_cached", step)]
        assert events, f"the build failed:\n{self.explained(step)}"

    def problem(self, step: str) -> str:
        """Why a step neither was built nor refused what it was given; empty when it did either."""
        if not self.events:  # the recipe's files were refused
            return self.ran.err if self.ran.code != 2 or "Traceback" in self.ran.err else ""
        errors = [_block(event["error"]) for event in self.of("step_failed", step)]
        wrong = (given.ESCAPED, "its process")
        problems = [error for error in errors if any(text in error for text in wrong)]
        if errors or any(self.of("step_finished", step)) or any(self.of("step_cached", step)):
            return "\n".join(problems)
        return self.explained()

    def explained(self, step: str = "") -> str:
        """The failures of a step, or of any step, for people."""
        failed = [e for e in self.events if e["event"] == "step_failed"]
        blocks = [_block(e["error"]) for e in failed if step in ("", e["step"])]
        return "\n".join(blocks) or f"exit code {self.ran.code}\n{self.ran.err}"


def _block(error: Mapping[str, Any]) -> str:
    return "\n".join([f"{error['error']}: {error['what']}", *error["details"]])


def provided_as(cls: type[Step]) -> tuple[str, Path | None]:
    """(name of a step type, the plugin file that provides it; None for an installed plugin)."""
    plugins = load_plugins()
    for name, (reference, plugin) in plugins.step_types.items():
        if _is(reference, cls, plugin.module.__name__):
            return name, None
    module = sys.modules[cls.__module__]
    table: dict[str, Any] = getattr(module, "finery_steps", dict)()
    for name, reference in table.items():
        if _is(reference, cls, cls.__module__):
            return name, Path(module.__file__ or "").absolute()
    raise PluginError(
        f"no plugin provides the step type {cls.__module__}:{cls.__qualname__}",
        fix="name it in the plugin's finery_steps, and install the plugin: pip install -e .",
    )


def _is(reference: Any, cls: type[Step], root: str) -> bool:
    """Whether a plugin's reference names a class. root: the plugin's module."""
    if not isinstance(reference, str):
        return reference is cls
    package = root.partition(".")[0]
    same = cls.__module__.partition(".")[0] == package
    return same and reference.endswith(f":{cls.__qualname__}") and load_reference(reference) is cls


def settings_of(step: Settings, prefix: str) -> dict[str, Any]:
    """A step's settings as a recipe has them, without those that have their default.

    prefix: what its paths are relative to, from the recipe's folder.
    """
    inputs = inspect.inputs_of(type(step)) if isinstance(step, Step) else {}
    nested = inspect.nested_fields(type(step)) if isinstance(step, Step) else {}
    entry: dict[str, Any] = {}
    for name, info in type(step).__finery_fields__.items():
        value = getattr(step, name)
        if name in inputs or value == info.default:
            continue
        if name in nested:
            steps = value if isinstance(value, list) else [value]
            inner = [{"use": provided_as(type(s))[0], **settings_of(s, prefix)} for s in steps]
            entry[name] = inner if isinstance(value, list) else inner[0]
        elif isinstance(value, Settings):
            entry[name] = inspect.tag_of(value) | settings_of(value, prefix)
        elif isinstance(value, Files):
            patterns = [os.path.normpath(os.path.join(prefix, p)) for p in value.patterns]
            entry[name] = patterns[0] if len(patterns) == 1 else patterns
        else:
            entry[name] = msgspec.to_builtins(value)
    return entry


def set_at(entry: dict[str, Any], path: str, value: Any) -> None:
    """Set `lora.r` in an entry."""
    *folders, name = path.split(".")
    for folder in folders:
        entry = entry.setdefault(folder, {})
    entry[name] = value


def artifacts_of(step: Step) -> Iterator[Artifact]:
    """All inputs of a step, and what they refer to."""
    for slot in inspect.slots_of(step).values():
        value = getattr(slot.owner, slot.field)
        for artifact in value if isinstance(value, list) else [value]:
            if artifact is not None:
                yield from _with_references(artifact)


def _with_references(artifact: Artifact) -> Iterator[Artifact]:
    yield artifact
    for ref in artifact.refs.values():
        yield from _with_references(ref)


def files_in(artifact: Artifact) -> list[Path]:
    """The files of an artifact. One without a folder (`Model(Path(), meta=…)`) has none."""
    if artifact.path == Path():
        return []
    return sorted(path for path in artifact.path.rglob("*") if path.is_file())


def differences(one: Trial, other: Trial) -> list[str]:
    """The differences between the outputs of two trials: a line for each file or fact."""
    before, after = one.outputs(), other.outputs()
    lines = [f"output '{name}' is missing" for name in before.keys() ^ after.keys()]
    for name in before.keys() & after.keys():
        if before[name].digest != after[name].digest:
            lines += _differing(
                before[name], after[name], one.output_folder(name), other.output_folder(name)
            )
    return lines


def _differing(one: Manifest, other: Manifest, folder: Path, other_folder: Path) -> Iterator[str]:
    for fact in sorted(one.meta.keys() | other.meta.keys()):
        before, after = one.meta.get(fact), other.meta.get(fact)
        if before != after:
            yield f"meta {fact}: {before!r} and {after!r}"
    for file in sorted(one.files.keys() | other.files.keys()):
        if file not in one.files or file not in other.files:
            yield f"{file}: only in one of them"
        elif one.files[file] != other.files[file]:
            yield f"{file}: {_first_difference(folder / file, other_folder / file)}"
    if one.refs.keys() != other.refs.keys() or one.external.keys() != other.external.keys():
        yield "they refer to different artifacts or files"
    for role in one.refs.keys() & other.refs.keys():
        if one.refs[role].digest != other.refs[role].digest:
            yield f"what they refer to as '{role}' differs"


def _first_difference(one: Path, other: Path) -> str:
    """The first place where two files differ, with what is there."""
    before, after = one.read_bytes(), other.read_bytes()
    shorter = min(len(before), len(after))
    at = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    part = slice(max(0, at - 20), at + 40)
    return f"at byte {at}: {before[part]!r} and {after[part]!r}"
