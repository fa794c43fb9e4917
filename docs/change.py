"""Draws docs/images/change.svg: what one change costs, from two recorded builds of a recipe.

python docs/change.py ALL CHANGED FILE.svg      each a folder of .finery/runs, see `finery runs`

ALL ran every step, as a script that is run from the top does. CHANGED is a build after a change.
"""

import json
import sys
from html import escape
from pathlib import Path

from finery.builder.runs import EVENTS_FILE
from finery.util.text import duration

ROW, TOP, BAR, LEFT, RIGHT, WIDTH = 24, 74, 240, 130, 560, 900
HEAD = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<title>{title}</title>
<style>
text {{ font: 14px "DejaVu Sans", "Segoe UI", Helvetica, Arial, sans-serif; fill: #d6dae4; }}
.head {{ font-size: 16px; font-weight: bold; }}
.quiet {{ fill: #7e8696; }}
</style>
<rect width="{width}" height="{height}" rx="10" fill="#181a20"/>
"""


def seconds_of(run: Path) -> dict[str, float]:
    """The seconds of each step that ran."""
    events = map(json.loads, (run / EVENTS_FILE).read_text(encoding="utf-8").splitlines())
    return {e["step"]: e["seconds"] for e in events if e["event"] == "step_finished"}


def bars(x: int, steps: list[str], seconds: dict[str, float], scale: float, colour: str) -> str:
    """A bar for each step that ran, and `cached` for the others."""
    drawn = []
    for place, step in enumerate(steps):
        y = TOP + place * ROW
        if step not in seconds:
            drawn.append(f'<text x="{x}" y="{y + 14}" class="quiet">cached</text>')
            continue
        width = max(2, seconds[step] * scale)
        drawn.append(f'<rect x="{x}" y="{y}" width="{width:.0f}" height="16" fill="{colour}"/>')
        text = duration(seconds[step])
        drawn.append(f'<text x="{x + width + 8:.0f}" y="{y + 14}">{text}</text>')
    return "\n".join(drawn)


def drawing(whole: dict[str, float], changed: dict[str, float]) -> str:
    """Both builds side by side, with their times at the bottom."""
    steps, scale = list(whole), BAR / max(whole.values())
    bottom = TOP + len(steps) * ROW
    title = f"After one changed line, {len(steps) - len(changed)} of {len(steps)} steps are cached"
    parts = [HEAD.format(width=WIDTH, height=bottom + 48, title=escape(title))]
    for x, y, text, kind in (
        (LEFT, 44, "A script, run from the top", "head"),
        (RIGHT, 44, "finery build", "head"),
        *((24, TOP + 14 + n * ROW, step, "quiet") for n, step in enumerate(steps)),
        (LEFT, bottom + 26, duration(sum(whole.values())), "head"),
        (RIGHT, bottom + 26, duration(sum(changed.values())), "head"),
    ):
        parts.append(f'<text x="{x}" y="{y}" class="{kind}">{escape(text)}</text>')
    parts.append(bars(LEFT, steps, whole, scale, "#6ea0f6"))
    parts.append(bars(RIGHT, steps, changed, scale, "#7ec878"))
    return "\n".join([*parts, "</svg>", ""])


def main(whole: str, changed: str, file: str) -> None:
    """Draw it. Steps that only CHANGED ran are an error: the first build wasn't whole."""
    first, second = seconds_of(Path(whole)), seconds_of(Path(changed))
    if not second.keys() <= first.keys():
        sys.exit(f"{whole} didn't run {', '.join(second.keys() - first.keys())}")
    Path(file).write_text(drawing(first, second), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
