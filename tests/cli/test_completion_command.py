"""`finery completion`: a shell completes after it is installed, and once."""

import re
import shutil
import subprocess

import pytest
from conftest import FINERY, MakeProject

from finery.cli.commands.completion import SHELLS

TYPED = {
    "bash": "COMP_WORDS=(FINERY pl); COMP_CWORD=1; complete -p finery; _finery_completion FINERY; "
    'echo "${COMPREPLY[@]}"',
    "zsh": "words=(FINERY pl); CURRENT=2; _describe() { print $completions_with_descriptions; }; "
    "_finery_completion",
    "fish": "complete -C 'FINERY pl'",
}
"""What completes `finery pl` in a script. zsh hands completions to `_describe`."""
PLACES = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/completions/finery.fish"}


@pytest.mark.parametrize("on_path", [True, False])
@pytest.mark.parametrize("shell", SHELLS)
def test_an_installed_completion_works_in_a_new_shell(
    project: MakeProject, shell: str, on_path: bool
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} isn't installed")
    place = PLACES[shell] if on_path else PLACES[shell].replace("completions", "conf.d")
    t = project({"recipe.yaml": "finery: 1\nname: t\n", place: "# mine\n"})
    path = [*([str(FINERY.parent)] if on_path else []), "/usr/bin", "/bin"]
    places = {"HOME": str(t.folder), "XDG_CONFIG_HOME": "", "ZDOTDIR": str(t.folder)}
    t.env |= {**places, "SHELL": f"/bin/{shell}", "PATH": ":".join(path)}
    for said in ("set up in", "already set up in"):
        ran = t.run("completion", "--install")
        assert (ran.code, ran.out.startswith(said)) == (0, True), ran.err
    lines = (t.folder / place).read_text("utf-8").splitlines()
    assert (lines[0], len(lines)) == ("# mine", 2)
    typed = TYPED[shell].replace("FINERY", "finery" if on_path else str(FINERY))
    options = ["--noprofile"] if shell == "bash" else []
    shown = subprocess.run(
        [shell, *options, "-ic", typed],
        cwd=t.folder, env=t.environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert re.search(r"\bplan\b.*\bplugins\b", shown.stdout, re.S), shown.stderr


def test_an_unknown_shell_is_named_with_those_that_work(project: MakeProject) -> None:
    t = project({})
    t.env["SHELL"] = "/usr/bin/nu"
    ran = t.here("completion")
    assert ran.code == 2
    assert "finery can't complete in 'nu'" in ran.err
    assert "one of: bash, zsh, fish" in ran.err
