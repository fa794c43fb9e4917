"""Attacks on the cache: a change after which a build must do what a clean build does.

An attack has a world of its own: a project in `p/`, an environment whose `site-packages` it fills
by hand (`site/` in the names of its files), and folders beside both (`../lib/`). It builds, makes
its change, and builds again. Then the changed world without store, caches and bytecode takes its
place and is built. The result is stale if the two builds differ.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

RECIPE = """\
finery: 1
name: t
plugins: [steps.py]
data:
  a: {use: a.answer}
"""
STEPS = '''\
import os
import sys
from pathlib import Path

from finery import Dataset, Job, Step, hookimpl, setting

HERE = Path(__file__).parent
TOP


class Answer(Step, seeded=FalseKEYWORDS):
    """An answer as a row."""

    tag: int = setting(0, help="Makes a step its own.")

    def run(self, job: Job) -> Dataset:
        """Answer."""
BODY
        return Dataset.write(job.out, [{"prompt": str(answer)}])


@hookimpl
def finery_steps():
    """The step types."""
    return {HOOK}
'''
VARIABLES = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "TERM", "USER")
"""Variables of this process that a build gets; the rest would differ between machines."""
SITE = f"venv/lib/python{sysconfig.get_python_version()}/site-packages"
LEFT_OUT = shutil.ignore_patterns(".finery", "build", "__pycache__", "cache")


class Stale(AssertionError):
    """A build with a cache gave another result than one without."""


class Crash(AssertionError):
    """A build failed that should not have."""


class Needless(AssertionError):
    """A step ran again although nothing changed for it."""


class Pointless(AssertionError):
    """The change of an attack changes no result, so it shows nothing."""


class Built(NamedTuple):
    """What a build left: its exit code, its outputs by their paths, what ran, and its messages."""

    code: int
    outputs: dict[str, bytes]
    ran: list[str]
    text: str

    @property
    def result(self) -> tuple[int, dict[str, bytes]]:
        """What has to be equal."""
        return self.code, self.outputs if self.code == 0 else {}

    def __str__(self) -> str:
        rows = {k: v.decode(errors="replace")[-300:] for k, v in self.outputs.items()}
        return f"exit code {self.code}, ran {self.ran}: {rows}\n{self.text[-1500:]}"


class World:
    """The folder of an attack, in which it builds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env: dict[str, str] = {}
        self.cwd = "p"
        self.recipe = "p"
        self.umask = 0o022
        self.arguments: tuple[str, ...] = ()

    def set_up(self, files: Mapping[str, str | bytes], prepare: "Change | None" = None) -> None:
        """Make the environment and the project, as if they were there for a while."""
        for name in ("p/.git", "venv/bin", SITE):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        home = os.path.dirname(getattr(sys, "_base_executable", sys.executable))
        (self.folder / "venv/pyvenv.cfg").write_text(
            f"home = {home}\ninclude-system-site-packages = false\n"
        )
        (self.folder / "venv/bin/python").symlink_to(sys.executable)
        ours = sysconfig.get_path("purelib")
        (self.folder / SITE / "zz-finery.pth").write_text(f"import site; site.addsitedir({ours!r})")
        self.write(files)
        if prepare:
            prepare(self)
        before = time.time() - 100
        for path in self.folder.rglob("*"):
            os.utime(path, (before, before), follow_symlinks=False)

    def path(self, name: str) -> Path:
        """The path of a file in the project, in `site/`, or in another folder, as in `../lib`."""
        inside = f"{SITE}/{name[5:]}" if name.startswith("site/") else f"p/{name}"
        return Path(os.path.normpath(self.folder / inside))

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Write files; `{w}` in a text is this folder."""
        for name, content in files.items():
            path = self.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                content = content.replace("{w}", str(self.folder)).encode()
            path.write_bytes(content)

    def build(self, *arguments: str) -> Built:
        """Run `python -m finery build --json`."""
        env = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        env |= {"FINERY_PROJECT_SETTINGS": "allow", "XDG_CACHE_HOME": "{w}/cache", **self.env}
        python = [str(self.folder / "venv/bin/python"), "-m", "finery", "build"]
        ran = subprocess.run(
            [*python, str(self.folder / self.recipe), "--json", *self.arguments, *arguments],
            cwd=self.folder / self.cwd, umask=self.umask, capture_output=True, text=True,
            env={name: text.replace("{w}", str(self.folder)) for name, text in env.items()},
            timeout=120, check=False,
        )  # fmt: skip
        lines = (line for line in ran.stdout.splitlines() if line.startswith("{"))
        events = [json.loads(line) for line in lines]
        started = [e["step"] for e in events if e["event"] == "step_started"]
        return Built(ran.returncode, self.outputs(), started, ran.stderr + ran.stdout)

    def outputs(self) -> dict[str, bytes]:
        """The contents of all files of all outputs."""
        folder = self.folder / "p/build"
        made = {}
        for step in folder.glob("*/*"):
            for path in sorted(step.rglob("*")):
                if path.is_file() and path.name != "manifest.json":
                    made[path.relative_to(folder).as_posix()] = path.read_bytes()
        return made

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of finery."""
        python = [str(self.folder / "venv/bin/python"), "-m", "finery"]
        return subprocess.run(
            [*python, *arguments], cwd=self.folder / "p", capture_output=True, text=True,
            env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")}, check=False,
        )  # fmt: skip


Change = Callable[[World], object]


@dataclass(frozen=True)
class Attack:
    """Files, a change, and what should become of it.

    prepare: what else there is before the first build. then: further changes, with a build after
    each; the last result counts. same: the change need not change the result. precise: no step must
    run again. fails: builds may fail in words. unseen: the documented kind of what isn't seen.
    """

    name: str
    files: Mapping[str, str | bytes]
    change: Change
    prepare: Change | None = None
    then: Sequence[Change] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    same: bool = False
    precise: bool = False
    fails: bool = False
    quick: bool = False
    unseen: str = ""

    def run(self, folder: Path) -> None:
        """Raise one of the errors above unless all is well."""
        world = World(folder / "w")
        world.set_up(self.files, self.prepare)
        world.env |= self.env
        first = world.build()
        if first.code != 0 and not self.fails:
            raise Crash(f"the first build failed: {first}")
        for change in (self.change, *self.then):
            change(world)
            aside = folder / "aside"
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(world.folder, aside, symlinks=True, ignore=LEFT_OUT)
            cached = world.build()
        shutil.rmtree(world.folder)
        aside.rename(world.folder)
        clean = world.build()
        if clean.code != 0 and not self.fails:
            raise Crash(f"the clean build failed: {clean}")
        if cached.result != clean.result:
            failed = cached.code != 0 and clean.code == 0
            raise (Crash if failed else Stale)(f"with a cache, {cached}\n\nclean, {clean}")
        if self.precise and cached.ran:
            raise Needless(f"ran again: {cached}")
        if clean.result == first.result and not (self.same or self.precise or self.then):
            raise Pointless(f"the same result: {clean}")


def attacks(cases: Iterable[Attack]) -> pytest.MarkDecorator:
    """Run a test with each of these as `attack`, most of them only in `make test-all`."""

    def marks(case: Attack) -> list[Any]:
        unseen = pytest.mark.xfail(reason=case.unseen, raises=Stale, strict=True)
        return [
            pytest.mark.slow,
            *[pytest.mark.quick for _ in range(case.quick)],
            *[unseen for _ in range(bool(case.unseen))],
        ]

    return pytest.mark.parametrize(
        "attack", [pytest.param(c, id=c.name.replace(" ", "-"), marks=marks(c)) for c in cases]
    )


# -- what worlds are made of -----------------------------------------------------------------------


def step(
    body: str, top: str = "", *, keywords: str = "", hook: str = "", end: str = ""
) -> dict[str, str | bytes]:
    """A project with a step whose row is what `body` assigns to `answer`.

    hook: what the file has besides in the table of step types. end: what comes last in the file.
    """
    text = STEPS.replace("TOP", textwrap.dedent(top)).replace("KEYWORDS", keywords)
    text = text.replace("BODY", textwrap.indent(textwrap.dedent(body).strip("\n"), " " * 8))
    text = text.replace("HOOK", f'"a.answer": Answer{hook}')
    return {"recipe.yaml": RECIPE, "steps.py": f"{text}\n\n{textwrap.dedent(end)}"}


def in_file(files: Mapping[str, str | bytes], old: str, new: str) -> dict[str, str | bytes]:
    """The same files with another text in `steps.py`."""
    text = str(files["steps.py"])
    assert old in text
    return {**files, "steps.py": text.replace(old, new)}


def more(*steps: str, plugins: str = "steps.py") -> dict[str, str | bytes]:
    """A recipe of these steps, each as `name: {…}`."""
    lines = "".join(f"  {s}\n" for s in steps)
    return {"recipe.yaml": f"finery: 1\nname: t\nplugins: [{plugins}]\ndata:\n{lines}"}


def distribution(
    name: str, version: str, files: Mapping[str, str | bytes], *, requires: Sequence[str] = (),
    entry: str = "", top: bool = True, at: str = "site", editable: str = "",
) -> dict[str, str | bytes]:  # fmt: skip
    """An installed distribution: its files and metadata in `at`.

    entry: its module with hooks of finery. top: whether `top_level.txt` names its modules.
    editable: the folder that it was installed from with `-e`; its files aren't listed then.
    """
    folder = f"{name.replace('-', '_')}-{version}.dist-info"
    requirements = "".join(f"Requires-Dist: {each}\n" for each in requires)
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requirements}"
    made: dict[str, str] = {
        "METADATA": about,
        "INSTALLER": "pip\n",
        "WHEEL": "Wheel-Version: 1.0\n",
    }
    if entry:
        made["entry_points.txt"] = f"[finery]\n{name} = {entry}\n"
    if top:
        made["top_level.txt"] = "".join(f"{m}\n" for m in sorted({_module(f) for f in files}))
    if editable:
        made["direct_url.json"] = json.dumps(
            {"url": f"file://{editable}", "dir_info": {"editable": True}}
        )
    listed = [] if editable else list(files)
    made["RECORD"] = "".join(f"{f},,\n" for f in [*listed, *(f"{folder}/{m}" for m in made)])
    installed = {f"{at}/{folder}/{m}": text for m, text in made.items()}
    return {**({} if editable else {f"{at}/{f}": text for f, text in files.items()}), **installed}


def _module(file: str) -> str:
    first = file.split("/")[0]
    return first.split(".")[0]


def in_step(name: str, top: str, body: str, old: str, new: str, **kind: Any) -> Attack:
    """An attack by an edit of the plugin file."""
    return Attack(name, step(body, top), edit(old, new), **kind)


def in_helper(name: str, helper: str, body: str, old: str, new: str, **kind: Any) -> Attack:
    """An attack by an edit of a module `helper` beside the plugin file, which imports it."""
    files = step(body, "import helper") | {"helper.py": textwrap.dedent(helper)}
    return Attack(name, files, edit(old, new, "helper.py"), **kind)


# -- changes ---------------------------------------------------------------------------------------


def edit(old: str, new: str, file: str = "steps.py") -> Change:
    """Replace text."""

    def change(world: World) -> None:
        text = world.path(file).read_text()
        assert old in text, f"{old!r} isn't in {file}"
        world.write({file: text.replace(old, new)})

    return change


def put(file: str, content: str | bytes) -> Change:
    """Write a file, or another in its place."""
    return lambda world: world.write({file: content})


def install(files: Mapping[str, str | bytes]) -> Change:
    """Write files."""
    return lambda world: world.write(files)


def remove(*files: str) -> Change:
    """Remove files or folders."""

    def change(world: World) -> None:
        for name in files:
            path = world.path(name)
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    return change


def uninstall(name: str, version: str, *files: str) -> Change:
    """Remove a distribution's metadata, and its files."""
    folder = f"site/{name.replace('-', '_')}-{version}.dist-info"
    return remove(folder, *(f"site/{f}" for f in files))


def variable(**variables: str) -> Change:
    """Set environment variables of the next build."""
    return lambda world: world.env.update(variables)


def link(name: str, target: str) -> Change:
    """Make a symbolic link, or retarget it."""

    def change(world: World) -> None:
        world.path(name).unlink(missing_ok=True)
        world.path(name).symlink_to(target.replace("{w}", str(world.folder)))

    return change


def both(*changes: Change) -> Change:
    """Several changes as one."""

    def change(world: World) -> None:
        for each in changes:
            each(world)

    return change
