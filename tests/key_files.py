"""Writes core/key_files.txt: the definitions in the key of each built-in step type.

python tests/key_files.py            write it
python tests/key_files.py --check    exit 1 if it is stale
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import fill
from typing import Any

from finery import Step, load_plugins
from finery.builder.code.table import names_in, table
from finery.step.inspect import declared_outputs, inputs_of

FILE = Path(__file__).with_name("core") / "key_files.txt"
COMMAND = "python tests/key_files.py"
HEAD = f"""\
# The definitions in the keys of the built-in step types, by file, without what settings name.
# A change of a definition reruns the step types above it: see that it belongs there.
# "on import" stands for statements that aren't definitions. `eval.*` stands for all of a plugin.
# Generated: {COMMAND}
"""


def key_files() -> str:
    """Each file, with its definitions that step types reach in the same way."""
    plugins = load_plugins()
    own = {name for name, (_, p) in plugins.step_types.items() if _is_built_in(p.module.__name__)}
    users: dict[tuple[str, str], set[str]] = {}
    for use in sorted(own):
        cls = plugins.step_type(use)
        for subject in (cls, *_artifact_files(cls)):
            code = table().subjects[f"{subject.__module__}:{subject.__qualname__}"]
            for label, digest in code.items():
                for name in names_in(label, digest):
                    users.setdefault((label, name), set()).add(use)
    groups: dict[str, dict[str, list[str]]] = {}
    for (file, name), uses in sorted(users.items()):
        groups.setdefault(file, {}).setdefault(_shown(uses, own), []).append(name or "on import")
    parts = [HEAD]
    for file, group in groups.items():
        lines = [line for uses, names in group.items() for line in (uses, ", ".join(names))]
        indents = itertools.cycle(("  ", "    "))
        wrapped = [fill(line, 100, initial_indent=i, subsequent_indent=i, break_on_hyphens=False)
                   for line, i in zip(lines, indents, strict=False)]  # fmt: skip
        parts.append("\n".join([file, *wrapped]) + "\n")
    return "\n".join(parts)


def _artifact_files(cls: type[Step]) -> Iterator[Callable[..., Any]]:
    """The functions that write the outputs of a step type and read its inputs."""
    for kind in declared_outputs(cls).values() if cls.outputs is Step.outputs else ():
        yield from kind.written_by
    for accepts in inputs_of(cls).values():
        yield from accepts.kind.read_by


def _shown(uses: set[str], own: set[str]) -> str:
    """Step types, those of a whole plugin as `eval.*`."""
    if uses == own:
        return "all step types"
    families: dict[str, set[str]] = {}
    for use in own:
        families.setdefault(use.partition(".")[0], set()).add(use)
    shown: set[str] = set()
    for family, members in families.items():
        is_whole = members <= uses and len(members) > 1
        shown |= {f"{family}.*"} if is_whole else members & uses
    return " ".join(sorted(shown))


def _is_built_in(module: str) -> bool:
    """Whether the module is of the distribution that these tests belong to."""
    top = module.partition(".")[0]
    file = sys.modules[top].__file__
    return file is not None and Path(file).is_relative_to(Path(__file__).parents[1])


def main() -> int:
    """Write the file, or check it; the exit code."""
    text = key_files()
    if "--check" in sys.argv[1:]:
        return int(FILE.read_text(encoding="utf-8") != text)
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
