"""Writes core/key_files.txt: the files whose code is in the key of each built-in step type.

python tests/key_files.py            write it
python tests/key_files.py --check    exit 1 if it is stale
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from finery import load_plugins
from finery.build.code.steps import StepCode
from finery.recipe.document import load
from finery.store.database import Store

FILE = Path(__file__).with_name("core") / "key_files.txt"
COMMAND = "python tests/key_files.py"
HEAD = f"""\
# The files whose code is in the key of each built-in step type, without what its settings name.
# A change of a file here reruns the steps of that type: see that each line belongs here.
# Generated: {COMMAND}
"""


def key_files() -> str:
    """Each step type with its files, as `finery explain --all` names them."""
    plugins = load_plugins()
    own = {name for name, (_, p) in plugins.step_types.items() if _is_built_in(p.module.__name__)}
    with TemporaryDirectory() as folder:
        recipe = Path(folder, "recipe.yaml")
        recipe.write_text("finery: 1\nname: none\n")
        store = Store(Path(folder, ".finery"))
        code = StepCode(load(recipe), plugins, store)
        parts = [HEAD]
        for use in sorted(own):
            files = code.of_type(use) | code.of_artifacts(plugins.step_type(use))
            lines = [f"  {file}" for file in sorted(files) if ":" not in file]
            parts.append("\n".join([use, *lines]) + "\n")
        store.close()
    return "\n".join(parts)


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
