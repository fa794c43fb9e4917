"""The processes that tests fork are as those of their own: tests/warm.py."""

import json

from conftest import MakeProject

CODE = """
import locale, os, sys, time
facts = [hash('a'), sys.path, time.tzname, sys.flags.utf8_mode, locale.setlocale(locale.LC_CTYPE)]
command = open('/proc/self/cmdline').read()
rows = [{'prompt': repr([facts, os.getcwd(), sorted(os.environ)]), 'completion': command}]
"""


def test_a_fork_runs_steps_as_a_process_of_its_own(project: MakeProject) -> None:
    step = {"use": "steps.script", "code": CODE}
    recipe = {"finery": 1, "name": "t", "plugins": ["./steps.py"], "data": {"a": step}}
    t = project({"recipe.yaml": json.dumps(recipe)})
    assert t.ran() == ["a"]
    (fork,) = t.rows("a")
    t.edit("recipe.yaml", "command =", "x = 1; command =")
    process = t.start("build")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    (alone,) = t.rows("a")
    assert "warm.py" in fork["completion"], "no worker was forked"
    assert "finery.execute.worker" in alone["completion"]
    assert fork["prompt"] == alone["prompt"]
