"""Recipes and plugin files that are named with `..` are those that a plain path names."""

import os
import subprocess

from conftest import FINERY, MakeProject

PLUGIN = '''
from finery import Dataset, Job, Step, hookimpl
import wording


class Words(Step, seeded=False):
    """A row with a word."""

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, [{"prompt": wording.WORD}])


@hookimpl
def finery_steps():
    return {"w.words": Words}
'''
RECIPE = "finery: 1\nname: r\nplugins: [../lib/words.py]\ndata: {a: {use: w.words}}\n"
FILES = {"r/recipe.yaml": RECIPE, "lib/words.py": PLUGIN, "lib/wording.py": "WORD = 'one'\n"}


def test_code_beside_a_plugin_file_is_compiled_from_source(project: MakeProject) -> None:
    t = project(FILES)
    helper = t.folder / "lib" / "wording.py"
    assert t.run("build", "r").code == 0
    before = helper.stat()
    helper.write_text("WORD = 'two'\n")
    os.utime(helper, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert t.run("build", "r").code == 0
    assert "two" in t.run("show", "r", "a").out
    assert not (t.folder / "lib" / "__pycache__").exists()


def test_code_of_a_plugin_file_is_not_read_besides(project: MakeProject) -> None:
    t = project(FILES)
    assert t.run("build", "r").code == 0
    t.edit("lib/words.py", "import wording\n", "import wording  # its word\n")
    assert "1 cached" in t.run("plan", "r").out


def test_a_recipe_above_is_the_same_from_below(project: MakeProject) -> None:
    t = project(FILES)
    assert t.run("build", "r").code == 0
    inside = t.folder / "r" / "inside"
    inside.mkdir()
    for word in ("..", "../recipe.yaml"):
        ran = subprocess.run(
            [FINERY, "plan", word], cwd=inside, capture_output=True, text=True, check=True
        )
        assert "1 cached" in ran.stdout, ran.stdout
