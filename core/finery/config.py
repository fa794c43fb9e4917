"""Settings of a machine, a project or a team: which store is shared, and where steps run.

They change how a build gets its outputs, never which ones, so none of them enters a key. Each
setting comes from the last of these that has it:

1. `finery.toml`, or the table `tool.finery` of `pyproject.toml`, in the recipe's folder or the
   nearest one above, up to the project folder
2. `config.toml` in the user's configuration folder for finery (Linux: `~/.config/finery`)
3. an environment variable, e.g. `FINERY_REMOTE` for `remote`; its value is TOML, or a text. An
   empty one counts as unset, except for a URL, file or folder, which it removes
4. an option of the command, e.g. `--remote`

Tables are merged entry by entry. A table that has the name of an executor contains its options.

A project may be a stranger's, so what a file of the first place could send somewhere counts only
with the user's consent. `settings_in_force` decides that for all commands.
"""

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec
from blake3 import blake3
from msgspec import Meta

from finery.errors import ConsentError, UsageError
from finery.store.repairs import warn
from finery.util.paths import project_folder, shown, user_folder
from finery.util.text import did_you_mean

FILE, PYPROJECT = "finery.toml", "pyproject.toml"
VARIABLE = "FINERY_"
DEFAULT = "default"
"""Where a value comes from that nothing sets."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The settings in force."""

    remote: Annotated[
        str | None, Meta(description="The shared store, e.g. `s3://bucket/prefix`.")
    ] = None
    push: Annotated[
        bool,
        Meta(description="Copy what is built to the shared store. Default: only if `CI=true`."),
    ] = msgspec.field(default_factory=lambda: os.environ.get("CI", "").lower() == "true")
    fetch: Annotated[
        Literal["none", "final", "all"],
        Meta(description="What a build copies here of the outputs that only the shared store has: "
             "those of steps that no other step uses, all, or none."),
    ] = "final"  # fmt: skip
    trust: Annotated[
        list[str],
        Meta(description="Public keys (`ssh-ed25519 …`). With any, finery believes only what their "
             "owners signed."),
    ] = []  # fmt: skip
    signing_key: Annotated[
        str | None,
        Meta(description="The file of the private SSH key (ed25519) that signs what is pushed."),
    ] = None
    share_answers: Annotated[
        bool, Meta(description="Share answers of models through the shared store, too.")
    ] = False
    executors: Annotated[
        dict[str, str],
        Meta(description="Section, step type or name of a step → the executor that runs it; "
             "`default` for all others."),
    ] = {}  # fmt: skip
    retries: Annotated[
        int,
        Meta(ge=0, description="How often to run a step again whose process was killed."),
    ] = 0
    keep: Annotated[
        int, Meta(ge=1, description="How many builds of each recipe `finery cache gc` keeps.")
    ] = 3
    wheels: Annotated[
        str | None,
        Meta(description="A folder of wheels; environments are then made without a network."),
    ] = None
    project_settings: Annotated[
        Literal["ask", "allow", "ignore"],
        Meta(description="What a project's settings need that could send data somewhere: consent "
             "for each folder, none, or they are ignored. Not for a project's own file."),
    ] = "ask"  # fmt: skip
    options: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}

    @contextmanager
    def placing(self) -> Iterator[None]:
        """In this block, an error in the value of a setting gets the place of that value."""
        try:
            yield
        except UsageError as error:
            if error.where in NAMES:
                error.what = f"{error.where}: {error.what}"
                error.where = self.origins.get(error.where, DEFAULT)
            raise

    def wheels_folder(self, recipe: Path) -> str:
        """The folder with wheels; empty if there is none. Raises `UsageError` if it is missing."""
        folder = project_folder(recipe) / Path(self.wheels or "").expanduser()
        if self.wheels and not folder.is_dir():
            raise UsageError(
                f"wheels: the folder {self.wheels} was not found",
                where=self.origins["wheels"],
                fix="name a folder with wheels; a relative path starts at the project folder",
            )
        return str(folder) if self.wheels else ""


class Setting(NamedTuple):
    """A setting in force, and where its value comes from: `finery.toml:3` or `$FINERY_PUSH`."""

    name: str
    value: Any
    origin: str


HARMLESS = ("fetch", "keep", "retries", "trust", "wheels")
"""Settings that a project may decide alone. All others, with the tables of executors, send data to
places that they name, sign with the user's key, or choose what runs on other machines."""
POLICY = "project_settings"
NAMES = [name for name in Config.__struct_fields__ if name not in ("options", "origins")]
"""The settings that a file can have beside tables of executors."""


def load_config(recipe: Path | None, *, reads: bool = False, **options: Any) -> Config:
    """The settings for a recipe, or for the current folder.

    reads, options: see `settings_in_force`. Raises `UsageError` with the place of a wrong value.
    """
    settings = settings_in_force(recipe, reads=reads, **options)
    values = {s.name: s.value for s in settings}
    tables = {name: values.pop(name) for name in [*values] if name not in NAMES}
    return Config(**values, options=tables, origins={s.name: s.origin for s in settings})


def settings_in_force(recipe: Path | None, *, reads: bool = False, **options: Any) -> list[Setting]:
    """Every setting, and every entry of a table as `slurm.partition`'s table, with its origin.

    reads: whether the command works without settings of the project that the user hasn't allowed,
    and only warns; otherwise they raise `ConsentError`. options: values of options of the command;
    None where the user didn't give one.
    """
    project, own = _files(recipe)
    written = _read(project) if project else {}
    if POLICY in written:
        raise UsageError(
            f"a project can't decide about {POLICY}",
            where=written[POLICY][1],
            fix=f"move it to {_own_folder() / 'config.toml'}",
        )
    given = {name: (v, f"--{name}") for name, v in options.items() if v is not None}
    layers = [_read(own) if own else {}, _variables(), given]
    settings, risky = _merged([written, *layers]), _risky(written)
    rest = _merged([{n: entry for n, entry in written.items() if n not in risky}, *layers])
    values, others = ({s.name: s.value for s in each} for each in (settings, rest))
    policy = others[POLICY]
    if project is None or values == others or policy == "allow":
        return settings
    if os.path.exists(_consent(project.parent, risky)):
        return settings
    place = next(iter(risky.values()))[1]
    if policy == "ask" and not reads:
        _check_tables(recipe, risky)
        error = ConsentError(
            "these settings of the project need your consent, since they could send data elsewhere",
            where=place,
            details=_in_lines(risky),
            fix="if you trust them, run: finery config --allow. When one changes, finery asks for "
            f"all of them again. In CI, set {VARIABLE}{POLICY.upper()}=allow. To do without them, "
            "set it to ignore",
        )
        error.rest = rest
        raise error
    if policy == "ask":
        what = f"without {', '.join(risky)}, which you haven't allowed as they are now"
        _warn_once(f"{place}: {what}; see finery config")
    return rest


_Written = dict[str, tuple[Any, str]]
"""Name → (value, place) of settings."""


def _merged(layers: list[_Written]) -> list[Setting]:
    """The settings of all layers, later ones first."""
    # in the order of the class
    found = {name: Setting(name, getattr(Config(), name), DEFAULT) for name in NAMES}
    for layer in layers:
        for name, (value, origin) in layer.items():
            before = found.get(name)
            if isinstance(value, dict) and before is not None and before.value:
                value, origin = {**before.value, **value}, f"{before.origin}, {origin}"
            found[name] = Setting(name, value, origin)
    return [*found.values()]


def _risky(written: _Written) -> _Written:
    """The settings of a project's file that need consent: none that switches something off."""
    return {n: entry for n, entry in written.items() if n not in HARMLESS and entry[0]}


def _in_lines(risky: _Written) -> list[str]:
    """Settings with their values and places, for people."""
    from finery.recipe.yaml import redact_secrets

    return [
        redact_secrets(f"{name} = {json.dumps(value, default=str)}  ({place})")
        for name, (value, place) in risky.items()
    ]


_warn_once = cache(warn)


def _consent(folder: Path, risky: _Written) -> Path:
    """The file that exists if the user allows these values in a folder, beside all such files."""
    values = json.dumps({n: v for n, (v, _) in risky.items()}, sort_keys=True, default=str)
    texts = os.fsencode(folder.resolve()), values.encode()
    return _own_folder().joinpath("allowed", *(blake3(text).hexdigest() for text in texts))


def _check_tables(recipe: Path | None, risky: _Written) -> None:
    """Refuse a table of no executor, before the user consents to it.

    Not if the recipe has plugin files, which may add executors: they mustn't run before that.
    """
    from finery.plugin.manager import load_plugins
    from finery.recipe.document import load

    tables = []
    with suppress(UsageError):  # a wrong recipe is reported when it is used
        if not load(recipe or Path("recipe.yaml")).data.get("plugins"):
            tables = [name for name in risky if name not in NAMES]
    for name in tables:
        check_executor(name, risky[name][1], load_plugins().executors)


def check_executor(name: str, origin: str, names: Iterable[str]) -> None:
    """Raise `UsageError` if there is no such executor."""
    if name not in names:
        fix = did_you_mean(name, [*names]) or f"one of: {', '.join(names)}"
        raise UsageError(f"executor '{name}' was not found", where=origin, fix=fix)


def set_consent(recipe: Path, *, allowed: bool) -> list[str]:
    """Allow the settings of a recipe's project as they are now, or withdraw all consents.

    They are withdrawn for each folder that can have the settings, even if none has any now.
    Returns what was allowed or withdrawn, in words.
    """
    lines = []
    try:
        if not allowed:
            for folder in _folders(recipe):
                if (consents := _consent(folder, {}).parent).exists():
                    shutil.rmtree(consents)
                    lines.append(f"all consents to settings in {folder}")
        elif (project := _files(recipe)[0]) and (risky := _risky(_read(project))):
            _check_tables(recipe, risky)
            consent = _consent(project.parent, risky)
            consent.parent.mkdir(parents=True, exist_ok=True)
            consent.write_bytes(os.fsencode(project.resolve()))
            lines = _in_lines(risky)
    except OSError as error:
        fix = f"make the folder writable, set HOME or {VARIABLE}{POLICY.upper()}=allow"
        what = f"can't record it: {error.strerror}"
        raise UsageError(what, where=error.filename, fix=fix) from error
    return lines


def _own_folder() -> Path:
    """The user's folder of finery's configuration. Without a home folder, none can exist there."""
    name = "Library/Application Support" if sys.platform == "darwin" else ".config"
    return user_folder("XDG_CONFIG_HOME", name) or Path(os.devnull, "finery")


def _folders(recipe: Path | None) -> list[Path]:
    """The folders that can have a recipe's settings, nearest first."""
    start = (recipe or Path("recipe.yaml")).absolute()
    return [*start.parents][: [*start.parents].index(project_folder(start)) + 1]


def _files(recipe: Path | None) -> tuple[Path | None, Path | None]:
    """The files with settings of the project and of the user, where there are any."""
    paths = (folder / name for folder in _folders(recipe) for name in (FILE, PYPROJECT))
    files = (path for path in paths if path.is_file() and _parsed(path)[1] is not None)
    own = _own_folder() / "config.toml"
    return next(files, None), own if own.is_file() else None


def _parsed(path: Path) -> tuple[str, Any]:
    """The text of a file, and the table of settings; None for a pyproject.toml without one."""
    tables, text = ("tool", "finery") if path.name == PYPROJECT else (), ""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig", "replace")
        is_read = not tables or "finery" in text
        written: Any = tomllib.loads(content.decode("utf-8-sig")) if is_read else None
    except OSError as error:
        raise UsageError(f"can't read it: {error.strerror}", where=shown(path)) from error
    except (ValueError, RecursionError) as error:
        if tables and not _line(text, *tables):
            return text, None
        what, _, place = str(error).partition(" (at line ")
        where = ":".join([shown(path), *re.findall(r"\d+", place)])
        fix = "correct it; a value is `true`, `false`, a number, a text in quotes or a list"
        raise UsageError(f"is not TOML: {what}", where=where, fix=fix) from error
    for name in tables:
        written = written.get(name) if isinstance(written, dict) else None
    return text, written


def _read(path: Path) -> _Written:
    """The settings in a file."""
    text, written = _parsed(path)
    place = f"{shown(path)}:{_line(text, 'tool', 'finery') or 1}"
    settings = {}
    for name, value in _checked("tool.finery", written, place).items():
        place = f"{shown(path)}:{_line(text, 'tool', 'finery', name) or 1}"
        if name not in NAMES and not isinstance(value, dict):
            fix = did_you_mean(name, NAMES) or f"one of: {', '.join(NAMES)}"
            raise UsageError(f"unknown setting '{name}'", where=place, fix=fix)
        settings[name] = _checked(name, value, place), place
    return settings


def _line(text: str, *names: str) -> int:
    """The line of a table or of a value in tables; 0 if it is written in an unusual way."""
    *tables, name = (rf"[\"']?{re.escape(each)}[\"']?[ \t]*" for each in names)
    above = "".join(rf"(?:{table}\.[ \t]*)?" for table in tables)
    found = re.search(rf"^[ \t]*((?:\[+[ \t]*)?{above}{name}[\].=])", text, re.MULTILINE)
    return text.count("\n", 0, found.start(1)) + 1 if found else 0


def _variables() -> _Written:
    """The settings in the environment. The place of each is its variable."""
    settings = {}
    for name in NAMES:
        variable = f"{VARIABLE}{name.upper()}"
        text = os.environ.get(variable)
        if text is None or (not text and getattr(Config(), name) is not None):
            continue  # only for a text that is None by default, "" is a value: none
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except ValueError:
            value = text
        settings[name] = _checked(name, value, f"${variable}"), f"${variable}"
    return settings


def _checked(name: str, value: Any, place: str) -> Any:
    """A value of a setting as its type; `UsageError` if it doesn't fit."""
    kind: Any = Config.__annotations__[name] if name in NAMES else dict[str, Any]
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        is_choice = get_origin(plain) is Literal
        fix = f"one of: {', '.join(get_args(plain))}" if is_choice else "correct it"
        raise UsageError(misfit(error, name), where=place, fix=fix) from None


def misfit(error: msgspec.ValidationError, name: str) -> str:
    """What is wrong with the value of a setting or of an entry of a table, in words."""
    text, _, place = str(error).partition(" - at `$")
    name += place.strip("`").replace("[...]", " has an entry that")
    text = re.sub("^Invalid enum value ", " can't be ", text)
    text = re.sub("^Expected ", " must be ", text).replace(", got ", ", not ")
    return name + re.sub(r"`([a-z| ]+)`", lambda kinds: _in_words(kinds[1]), text)


def _in_words(kinds: str) -> str:
    """msgspec's names of types in words: `str | null`."""
    words = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false",
             "array": "a list", "object": "a table"}  # fmt: skip
    return " or ".join(words.get(kind, kind) for kind in kinds.split(" | ") if kind != "null")
