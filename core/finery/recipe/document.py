"""A recipe as written: plain data, and the position of each part in the file.

YAML is read as people expect: `2e-4` is a number, and `no` and `on` are strings. A key that is
written twice is an error, aliases can't multiply without limit, and tags can't create objects.
"""

import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from finery.errors import RecipeError, UsageError
from finery.recipe.yaml import _excerpt, _parse, redact_secrets
from finery.util.files import check_plain, read_plain
from finery.util.paths import shown
from finery.util.text import did_you_mean

MAX_RECIPE_BYTES = 16 << 20
"""Maximum size of a recipe, in bytes."""
MATRIX_OPTION = "--matrix "
"""Before an assignment of `--matrix` among those of `--set`. No path begins like that."""
RecipePath = tuple[str | int, ...]
"""A place in the recipe, e.g. `("train", "sft", "lora", "r")`."""


class Recipe:
    """The data of a recipe file with `--set` applied, and the positions of its parts."""

    def __init__(self, path: Path, text: str, node: yaml.Node, data: dict[str, Any]) -> None:
        self.path = path
        self.text = text
        self.data = data
        self.variant_names: frozenset[str] = frozenset()  # see `expanded`
        self._node = node
        self._overrides: dict[RecipePath, str | RecipePath] = {}

    @property
    def folder(self) -> Path:
        """The folder that the recipe's paths are relative to."""
        return self.path.parent

    @property
    def argument(self) -> str:
        """How the command line refers to it, followed by a space; empty for `recipe.yaml` here."""
        return "" if shown(self.path) == "recipe.yaml" else f"{shlex.quote(shown(self.path))} "

    @property
    def shareable(self) -> str:
        """The text as it can be handed on: what looks like a secret is `***`."""
        return redact_secrets(self.text)

    @property
    def overrides(self) -> dict[RecipePath, str]:
        """Place → the `--set` or `--matrix` that set it, without secrets."""
        return {place: by for place, by in self._overrides.items() if isinstance(by, str)}

    @property
    def places(self) -> dict[RecipePath, RecipePath]:
        """Place of a variant, or of a setting that it gives → where the file has it."""
        return {place: by for place, by in self._overrides.items() if not isinstance(by, str)}

    @property
    def name(self) -> str:
        """The recipe's name; by default the folder's."""
        return str(self.data.get("name") or self.folder.resolve().name)

    def override(self, assignment: str) -> None:
        """Apply one `--set section.step.setting=value`; the value is read as YAML."""
        target, equals, text = assignment.partition("=")
        where = redact_secrets(f"--set {assignment}")
        if not equals or not target:
            raise UsageError(
                "--set expects PATH=VALUE", where=where, fix="--set train.sft.epochs=1"
            )
        keys = target.strip().split(".")
        try:
            value = _parse(text, where, "the value")[1] if text.strip() else ""
        except RecipeError as error:
            raise UsageError(error.what, where=where, fix=error.fix) from None
        parent = self.data
        for depth, key in enumerate(keys[:-1]):
            is_optional = depth >= 2 or keys[0] == "matrix"
            child = parent.setdefault(key, {}) if is_optional else parent.get(key)
            if not isinstance(child, dict):
                sections = (s for s, v in self.data.items() if isinstance(v, dict) and key in v)
                if depth == 0 and (section := next(sections, None)):
                    fix = where.replace("--set ", f"--set {section}.", 1)
                    raise UsageError(f"'{key}' isn't a section", where=where, fix=fix)
                dotted_name = ".".join(keys[: depth + 1])
                if isinstance(child, list):
                    fix = f"set all of it: --set '{dotted_name}=[…]'"
                    raise UsageError(f"'{dotted_name}' is a list", where=where, fix=fix)
                raise UsageError(
                    f"'{dotted_name}' was not found in the recipe",
                    where=where,
                    fix=did_you_mean(key, parent)
                    or "name a section, a step and a setting: --set train.sft.epochs=1",
                )
            parent = child
        parent[keys[-1]] = value
        self._overrides[tuple(keys)] = where

    def add_axis(self, assignment: str) -> None:
        """Apply one `--matrix section.step.setting=VALUE,VALUE`, or `--matrix off`.

        The values are read as the items of a YAML list. They replace those of an axis of that name.
        """
        where = redact_secrets(f"--matrix {assignment}")
        if assignment.strip() == "off":
            self.data.pop("matrix", None)
            kept_overrides = {
                place: option for place, option in self._overrides.items() if place[0] != "matrix"
            }
            self._overrides = {**kept_overrides, ("matrix",): where}
            return
        target, equals, text = assignment.partition("=")
        if not equals or not target.strip():
            raise UsageError(
                "--matrix expects PATH=VALUE,VALUE",
                where=where,
                fix="--matrix train.sft.learning_rate=1e-4,2e-4, or --matrix off for no matrix",
            )
        try:
            values = _parse(f"[{text}]", where, "the values")[1]
        except RecipeError as error:
            raise UsageError(error.what, where=where, fix=error.fix) from None
        matrix = self.data.get("matrix")
        self.data["matrix"] = {**(matrix if isinstance(matrix, dict) else {}), target: values}
        self._overrides["matrix", target] = where

    def with_data(
        self, data: dict[str, Any], places: Mapping[RecipePath, RecipePath], names: Collection[str]
    ) -> "Recipe":
        """The recipe with other data, for variants of its steps.

        places: place in `data` → the place in this recipe where it is written. names: of variants
        of steps, which aren't in the file.
        """
        recipe = Recipe(self.path, self.text, self._node, data)
        recipe._overrides = {**self._overrides, **places}
        recipe.variant_names = frozenset(names)
        return recipe

    def copy_step(self, section: str, name: str, source_step: str) -> None:
        """Let the step `name` be written as the step `source_step` of the same section."""
        self.data[section][name] = self.data[section][source_step]
        for place, file_place in self.places.items():
            if place[:2] == (section, source_step) and file_place != (section, name):
                self._overrides[section, name, *place[2:]] = file_place

    def where(self, place: Sequence[str | int] = (), *, key: bool = False) -> str:
        """`file:line:column` of a part of the recipe, or of the nearest part that contains it.

        key: return the position of the part's key instead of its value.
        """
        written, option = self._file_place(tuple(place))
        if option:
            return option
        mark = self._mark(written, key)
        return f"{shown(self.path)}:{mark.line + 1}:{mark.column + 1}"

    def _file_place(self, place: RecipePath) -> tuple[RecipePath, str]:
        """(where a part is written in the file, the option of the command line that set it)."""
        for end in range(len(place), 0, -1):
            source = self._overrides.get(place[:end])
            if isinstance(source, str):
                return place, source
            if source is not None:
                return self._file_place((*source, *place[end:]))
        return place, ""

    def _mark(self, place: Sequence[str | int], key: bool) -> yaml.Mark:
        node, mark = self._node, self._node.start_mark
        for depth, step in enumerate(place):
            pair = _child_nodes(node, step)
            if pair is None:
                break
            name, node = pair
            is_last = depth == len(place) - 1
            mark = name.start_mark if (is_last and key) or not is_last else node.start_mark
        return mark

    def error(
        self,
        problem: str,
        place: Sequence[str | int] = (),
        *,
        key: bool = False,
        fix: str | None = None,
    ) -> RecipeError:
        """A `RecipeError` at a part of the recipe; it shows that line."""
        where = self.where(place, key=key)
        file_place, option = self._file_place(tuple(place))
        if option:
            return RecipeError(problem, where=where, fix=fix)
        mark = self._mark(file_place, key)
        return RecipeError(
            problem, where=where, fix=fix, details=_excerpt(self.text, mark.line, mark.column)
        )


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file. Every mistake in the YAML raises a `RecipeError` with its position.

    overrides: the assignments of `--set`, and those of `--matrix` after `MATRIX_OPTION`, in their
    order.
    """
    recipe = Recipe(path, *_read(path))
    for assignment in overrides:
        if assignment.startswith(MATRIX_OPTION):
            recipe.add_axis(assignment.removeprefix(MATRIX_OPTION))
        else:
            recipe.override(assignment)
    return recipe


def check_file(path: Path) -> None:
    """Raise `UsageError` unless the recipe is a file that can be read."""
    _read_content(path, 0)


def _read_content(path: Path, max_bytes: int = MAX_RECIPE_BYTES) -> bytes:
    """The content of a recipe's file. max_bytes: 0 only checks whether it can be read."""
    try:
        if not max_bytes:
            check_plain(path)
            return b""
        return read_plain(path, max_bytes)
    except FileNotFoundError:
        raise UsageError(
            f"recipe {shown(path)} was not found",
            fix="name a recipe, or create one: finery init DIR",
        ) from None
    except OSError as error:
        name = shown(path)
        name = name if len(name) <= 200 else f"{name[:80]}…{name[-40:]}"
        raise UsageError(
            f"can't read the recipe {name}: {error.strerror}",
            fix="name a recipe file, or make one: finery init DIR",
        ) from error


def _read(path: Path) -> tuple[str, yaml.Node, dict[str, Any]]:
    raw = _read_content(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise RecipeError(
            f"the recipe is not UTF-8 (byte 0x{raw[error.start]:02x})",
            where=f"{shown(path)}:{line}:{column}",
            fix="save it as UTF-8",
        ) from None
    node, data = _parse(text, shown(path))
    if not isinstance(data, dict):
        raise RecipeError(
            "a recipe must be a mapping of sections",
            where=f"{shown(path)}:1:1",
            fix="start with `finery: 1`; `finery init DIR` creates an example",
        )
    return text, node, data


def _child_nodes(node: yaml.Node, step: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """(key node, value node) of a part of a node, also of a merged one."""
    if isinstance(node, yaml.SequenceNode):
        index = int(step) if str(step).isdigit() else len(node.value)  # from a path: `reward.0`
        return (node.value[index], node.value[index]) if index < len(node.value) else None
    if not isinstance(node, yaml.MappingNode):
        return None
    for key_node, value_node in node.value:
        if key_node.value == step:
            return key_node, value_node
    for key_node, merged_node in node.value:
        if key_node.value == "<<":
            for mapping_node in (
                merged_node.value if isinstance(merged_node, yaml.SequenceNode) else [merged_node]
            ):
                if pair := _child_nodes(mapping_node, step):
                    return pair
    return None
