"""Mutation test of the contracts: do they notice a setting whose reads are cut off?

`python -m tools.cut_settings [--list] [NAME…]` runs the contracts in tests/contracts, or those
whose class or module has one of the names. For each setting that has an effect, it makes every read
of the setting return the value that the contract compares with, and asks the contract again: it
must say that the setting changes nothing. It prints a line for each setting, and the counts at the
end. `--list` cuts nothing. Don't edit code meanwhile: some outputs have digests of it.
"""

import importlib
import inspect
import os
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

UNCUT = "uncut"
"""Settings without a default, of a group that the step doesn't have: no value to return."""
TESTS = Path(__file__).parents[1] / "tests"


def contracts(names: list[str]) -> Iterator[Any]:
    """The contracts of step types that can run here, and whose name has one of the `names`."""
    from finery.testing import StepContract

    for file in sorted((TESTS / "contracts").glob("test_*_contracts.py")):
        module = importlib.import_module(file.stem)
        for name, cls in vars(module).items():
            is_contract = isinstance(cls, type) and issubclass(cls, StepContract)
            if not is_contract or cls.__module__ != file.stem:
                continue
            marks = getattr(cls, "pytestmark", ())
            is_skipped = any(mark.name == "skipif" and mark.args[0] for mark in marks)
            text = f"{file.stem} {name}"
            if not is_skipped and (not names or any(each in text for each in names)):
                yield cls


@contextmanager
def cut(step: Any, path: str, other: Any, value: Any) -> Iterator[None]:
    """Make every read of a setting that would give `other` give `value`."""
    cls = type(step)
    *groups, name = path.split(".")
    for group in groups:
        from finery.step.inspect import field_hints
        from finery.testing.checks import groups_in

        if group in cls.__finery_fields__:  # not a key of a mapping of groups
            (cls,) = groups_in(field_hints(cls)[group])
    own, field = vars(cls).get(name), inspect.getattr_static(cls, name)
    plain = msgspec.to_builtins

    def read(settings: Any) -> Any:
        read = field.__get__(settings, cls)
        # Which files match is only known once a step is prepared.
        return value if getattr(read, "patterns", read) == other else read

    def plain_settings(data: Any, **options: Any) -> Any:
        made = plain(data, **options)  # by the fields, not by `read`
        return made | {name: plain(read(data), **options)} if isinstance(data, cls) else made

    type.__setattr__(cls, name, property(read, field.__set__))
    msgspec.to_builtins = plain_settings  # type: ignore[assignment]
    try:
        yield
    finally:
        msgspec.to_builtins = plain
        if own is None:
            type.__delattr__(cls, name)
        else:
            type.__setattr__(cls, name, own)


def value_at(step: Any, path: str) -> Any:
    """The value of a setting, or its default where the group of settings isn't there."""
    name, _, rest = path.partition(".")
    value = getattr(step, name)
    if not rest:
        return value
    if value is None:
        from finery.step.inspect import field_hints
        from finery.testing.checks import groups_in

        (cls,) = groups_in(field_hints(type(step))[name])
        return cls.__finery_fields__[rest].default
    if isinstance(value, dict):
        key, _, rest = rest.partition(".")
        return value_at(value[key], rest)
    return value_at(value, rest)


def outcomes(contract: Any, folder: Path, *, cuts: bool) -> Iterator[tuple[str, str, str]]:
    """(setting, what the contract says, what it says once the setting is cut)."""
    from finery.testing.effects import with_settings

    comparison = contract.comparison(folder)
    for variation, situation in contract.changes(comparison.step):
        effect = comparison.of(variation, situation)
        said = effect.fact or ("nothing changes" if effect.tried else "no value")
        after = ""
        if effect.fact and cuts:
            base = with_settings(comparison.step, situation) or comparison.step
            value = value_at(base, effect.setting)
            if value is msgspec.NODEFAULT:
                after = UNCUT
            else:
                changed = with_settings(base, {effect.setting: effect.value})
                other = value_at(changed, effect.setting) if changed else effect.value
                with cut(base, effect.setting, getattr(other, "patterns", other), value):
                    after = comparison.of(variation._replace(values=[effect.value]), situation).fact
        yield effect.setting, said, after


def main() -> None:
    """Print what the contracts notice."""
    names = [name for name in sys.argv[1:] if name != "--list"]
    sys.path[:0] = [str(TESTS), str(TESTS / "contracts")]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    totals: Counter[str] = Counter()
    for cls in contracts(names):
        contract = cls()
        with tempfile.TemporaryDirectory() as folder:
            try:
                for setting, said, after in outcomes(
                    contract, Path(folder), cuts="--list" not in sys.argv
                ):
                    reason = contract.without_effect.get(setting, "")
                    kind = _kind(said, after, reason)
                    totals[kind] += 1
                    print(
                        f"{kind:12} {cls.__name__:20} {setting:32} {said} {after} {reason}".rstrip()
                    )
            except Exception:
                totals["error"] += 1
                print(f"error        {cls.__name__}\n{traceback.format_exc()}")
        sys.stdout.flush()
    print(dict(totals))


def _kind(said: str, after: str, reason: str) -> str:
    if after:
        return UNCUT if after == UNCUT else "UNNOTICED"
    if reason:
        return "listed" if said in ("nothing changes", "no value") else "STALE"
    return {"nothing changes": "DEAD", "no value": "DEAD", "refused": "refused"}.get(said, "found")


if __name__ == "__main__":
    main()
