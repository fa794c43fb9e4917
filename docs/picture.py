"""Draws docs/images/build.svg: the terminal at the end of a real `finery build`.

python docs/picture.py RECIPE FILE.svg [OPTION…]     builds in a terminal of 100 columns, draws it
python docs/picture.py RECIPE FILE.svg --run RUN     draws a recorded build, see `finery runs`

A recorded build's results must still be those of the recipe.
"""

import io
import json
import os
import pty
import re
import sys
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from finery.builder.project import Project
from finery.builder.runs import EVENTS_FILE, Outcome, read_run
from finery.builder.scheduler import Build
from finery.cli.progress import listener
from finery.cli.summary import print_summary
from finery.execute.local import LocalExecutor

WIDTH, HEIGHT = 100, 42
"""Columns, and the most lines that are drawn: the last ones."""
THEME = TerminalTheme(
    (24, 26, 32),
    (214, 218, 228),
    [
        (66, 72, 86), (232, 104, 100), (126, 200, 120), (226, 186, 96),
        (110, 160, 246), (204, 138, 220), (92, 196, 204), (214, 218, 228),
    ],
    [
        (126, 134, 150), (240, 130, 124), (150, 216, 142), (238, 206, 124),
        (140, 182, 250), (220, 164, 234), (124, 216, 222), (240, 242, 248),
    ],
)  # fmt: skip
SVG = """\
<svg viewBox="-18 -16 {terminal_width} {terminal_height}" xmlns="http://www.w3.org/2000/svg">
<title>The terminal at the end of a build</title>
<style>
.{unique_id}-matrix {{
  font: {char_height}px "DejaVu Sans Mono", Menlo, Consolas, "Liberation Mono", monospace;
  line-height: {line_height}px;
}}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="-18" y="-16" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
<rect x="-18" y="-16" fill="#181a20" width="{terminal_width}" height="{terminal_height}" rx="10"/>
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</svg>
"""
CODE = re.compile(r"\x1b\[\??([\d;]*)([A-Za-z])|\r|\n")


def recorded(command: list[str]) -> str:
    """What a command writes to a terminal."""
    parts: list[bytes] = []

    def read(terminal: int) -> bytes:
        parts.append(os.read(terminal, 65536))
        return parts[-1]

    os.environ.update(
        COLUMNS=str(WIDTH), LINES=str(HEIGHT), TERM="xterm-256color", COLORTERM="truecolor"
    )
    if status := pty.spawn(command, read):
        sys.exit(os.waitstatus_to_exitcode(status))
    return b"".join(parts).decode()


def last_screen(text: str) -> list[str]:
    """The lines that stay on a terminal where whole lines are erased and written again."""
    lines, row, at = [""], 0, 0
    for code in CODE.finditer(text):
        lines[row] += text[at : code.start()]
        at = code.end()
        number, kind = code.groups()
        if code[0] == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif kind == "A":
            row = max(row - int(number or 1), 0)
        elif kind == "K":
            lines[row] = ""
        elif kind == "m":
            lines[row] += code[0]
    return lines


def replay(recipe: Path, run: str) -> None:
    """Show a recorded build as `finery build` showed it."""
    project = Project(recipe)
    graph, store = project.graph, project.store
    events = (store.root / "runs" / run / EVENTS_FILE).read_text(encoding="utf-8").splitlines()
    with closing(listener(sys.stderr, graph)) as display:
        for line in events:
            display(json.loads(line))
    build = Build(graph, store, LocalExecutor(1))
    print_summary(build, _outcome(project, run))


def _outcome(project: Project, run: str) -> Outcome:
    """The outcome of a recorded build. Exits if a result of the recipe is another by now."""
    record = read_run(project.store.root, run)
    results = {name: project.result(name)[0] for name in project.graph.nodes}
    keys = {name: result.key for name, result in results.items()}
    if record is None or {name: step.key for name, step in record.steps.items()} != keys:
        sys.exit(f"run {run} didn't build what the recipe declares: build it again")
    return Outcome(run, results, record.named("ran"), seconds=record.seconds or 0.0)


def main(recipe: str, target: Path) -> None:
    """Build the recipe and draw what the terminal shows at the end."""
    finery = str(Path(sys.executable).with_name("finery"))
    command = [finery, "build", recipe, *sys.argv[3:]]
    if sys.argv[3:4] == ["--run"]:
        command = [sys.executable, __file__, "--replay", recipe, sys.argv[4]]
    console = Console(width=WIDTH, record=True, force_terminal=True, file=io.StringIO())
    lines = "\n".join(last_screen(recorded(command))).rstrip()
    screen = Text.from_ansi(lines).wrap(console, WIDTH)
    head = [Text.from_ansi(f"\x1b[1m$ finery build {recipe}\x1b[0m")]
    if len(screen) > HEIGHT:
        head.append(Text("…", style="dim"))
    shown = [*head, *screen[-HEIGHT:]]
    console.print(*shown, sep="\n")
    columns, rows = WIDTH * 12.2 + 36, len(shown) * 24.4 + 36  # as rich sizes its letters
    size = SVG.replace("{terminal_width}", f"{columns:.0f}").replace(
        "{terminal_height}", f"{rows:.0f}"
    )
    svg = console.export_svg(theme=THEME, code_format=size, unique_id="build")
    target.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "--replay":
        replay(Path(sys.argv[2]) / "recipe.yaml", sys.argv[3])
    else:
        main(sys.argv[1], Path(sys.argv[2]))
