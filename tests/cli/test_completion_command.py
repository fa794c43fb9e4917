"""`finery completion`: a shell completes after it is installed, and once."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FINERY, MakeProject

from finery.cli.commands.completion import SHELLS


def test_an_installed_completion_works_in_a_new_bash(project: MakeProject) -> None:
    t = project({"recipe.yaml": "finery: 1\nname: t\n"})
    t.env |= {"HOME": str(t.folder), "SHELL": "/bin/bash", "PATH": f"{FINERY.parent}:/usr/bin:/bin"}
    t.write({".bashrc": "alias ll='ls -l'"})
    for said in ("set up in", "already set up in"):
        ran = t.run("completion", "--install")
        assert (ran.code, ran.out.startswith(said)) == (0, True), ran.err
    lines = (t.folder / ".bashrc").read_text("utf-8").splitlines()
    assert (lines[0], len(lines)) == ("alias ll='ls -l'", 2)
    typed = "complete -p finery; COMP_WORDS=(finery pl); COMP_CWORD=1; _finery_completion finery; "
    shell = subprocess.run(
        ["bash", "--noprofile", "-ic", f'{typed} echo "${{COMPREPLY[@]}}"'],
        cwd=t.folder, env=t.environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "plan plugins plugin" in shell.stdout, shell.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_it_prints_the_script_and_installs_it_where_the_shell_looks(
    project: MakeProject, shell: str
) -> None:
    t = project({})
    t.env |= {"HOME": str(t.folder), "XDG_CONFIG_HOME": "", "ZDOTDIR": ""}
    if shell != "bash" or sys.platform == "linux":  # macOS has an old bash
        assert "_FINERY_COMPLETE" in t.here("completion", shell).out
    assert t.here("completion", shell, "--install").code == 0
    places = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/completions/finery.fish"}
    text = Path(t.folder, places[shell]).read_text("utf-8")
    assert f"_FINERY_COMPLETE={shell}_source finery" in text


def test_an_unknown_shell_is_named_with_those_that_work(project: MakeProject) -> None:
    t = project({})
    t.env["SHELL"] = "/usr/bin/nu"
    ran = t.here("completion")
    assert ran.code == 2
    assert "finery can't complete in 'nu'" in ran.err
    assert "one of: bash, zsh, fish" in ran.err
