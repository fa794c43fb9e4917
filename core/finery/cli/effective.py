"""`finery show STEP --effective`: what each setting of a built step came to, and why.

A step says which values it used in `runtime["settings"]` of its outputs, see `Artifact`.
"""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from finery.artifact.manifest import Result
from finery.fields import Files, Settings
from finery.recipe.yaml import redact_secrets
from finery.step.inspect import inputs_of, nested_fields
from finery.step.step import Step
from finery.views.parts import Cell, Part, Table, Text

USED = "settings"
NOT_RECORDED = "Used values weren't recorded when this was built, or the step type never does."


def effective_settings(step: Step, result: Result) -> Iterator[dict[str, Any]]:
    """The settings of a result, as `--json` has them: in the order of the class, then others.

    step: as the recipe has it now. Only settings that aren't part of the key are read from it.
    """
    used: dict[str, tuple[Any, str]] = {}
    for manifest in result.outputs.values():
        used |= manifest.runtime.get(USED, {})
    built, asked = dict(result.parts), dict(_asked(step))
    asked = {
        p: (built.get(f"setting {p}", value), default) for p, (value, default) in asked.items()
    }
    # `args` isn't shown beside `args.weight_decay`.
    groups = {path.rpartition(".")[0] for path in used}
    for path in [path for path in dict.fromkeys([*asked, *used]) if path not in groups]:
        name, _, key = path.partition(".")
        group, _ = asked.get(name, (None, None))
        inner = group.get(key) if isinstance(group, dict) else None  # `args.weight_decay`
        value, default = asked.get(path, (inner, None))
        facts = {"setting": path, "asked": value, "is_default": value == default}
        facts |= dict(zip(("used", "reason"), used.get(path, ()), strict=False))
        yield json.loads(redact_secrets(json.dumps(facts, ensure_ascii=False)))


def _asked(group: Settings, prefix: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """(path, (value, default)) of the settings of a step or a group, as plain data."""
    cls = type(group)
    omitted = {*inputs_of(cls), *nested_fields(cls)} if issubclass(cls, Step) else set()
    for name, info in cls.__finery_fields__.items():
        value = getattr(group, name)
        if isinstance(value, Settings) and name not in omitted:
            yield from _asked(value, f"{prefix}{name}.")
        elif name not in omitted:
            plain = value.patterns if isinstance(value, Files) else value
            both = (msgspec.to_builtins(each, enc_hook=repr) for each in (plain, info.default))
            yield f"{prefix}{name}", (next(both), next(both))


def table_of(settings: list[dict[str, Any]]) -> Iterator[Part]:
    """The settings as a table, after a remark where nothing was recorded."""
    if not any("used" in setting for setting in settings):
        yield Text(NOT_RECORDED)
        yield Table(
            ["setting", "asked"], [[each["setting"], _cell(each["asked"])] for each in settings]
        )
        return
    rows: list[list[Cell]] = []
    for each in settings:
        asked: Cell = _cell(each["asked"])
        used: Cell = Text("not recorded", "soft")
        if "used" in each:
            asked = Text("default", "soft") if each["is_default"] else asked
            reason = f" ({each['reason']})" if each["reason"] else ""
            used = [Text(_cell(each["used"])), Text(reason, "soft")]
        rows.append([each["setting"], asked, used])
    yield Table(["setting", "asked", "used"], rows)


def _cell(value: Any) -> str:
    """A value as a recipe has it."""
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
