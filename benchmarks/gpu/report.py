"""The results as a table, and as a section for docs/reference/benchmarks.md."""

from collections.abc import Sequence
from typing import Any

from gpu.check import Facts
from gpu.runner import Result

COLUMNS = ("check", "result", "seconds", "tokens/s", "peak GiB", "estimated GiB", "more")
SHOWN = ("tokens_per_second", "peak_gib", "estimated_gib")
LEFT_OUT = (*SHOWN, "off_percent", "steps")
MACHINE = ("gpu", "memory", "capability", "cuda", "python")


def table(results: Sequence[Result]) -> str:
    """A Markdown table with a line for each check."""
    lines: list[tuple[str, ...]] = [COLUMNS, ("---", "---", "--:", "--:", "--:", "--:", "---")]
    lines += [_line(result) for result in results]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(result: Result) -> tuple[str, ...]:
    facts = result.facts
    figures = [_value(facts.get(name, "")) for name in SHOWN]
    if "off_percent" in facts:
        figures[-1] += f" ({facts['off_percent']:+d} %)"
    more = "versions below" if result.check == "versions" and facts else _more(facts)
    text = result.reason or more
    cells = (result.check, result.status, f"{result.seconds:.0f}", *figures, text)
    return tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in cells)


def _more(facts: Facts) -> str:
    rest = {k: v for k, v in facts.items() if k not in LEFT_OUT and v not in (None, [], "")}
    return ", ".join(f"{name.replace('_', ' ')}: {_value(value)}" for name, value in rest.items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def summary(results: Sequence[Result]) -> str:
    """How many checks ended in which way."""
    counts = {s: sum(r.status == s for r in results) for s in ("ok", "failed", "missing")}
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def page(results: Sequence[Result], command: str, when: str) -> str:
    """The section for docs/reference/benchmarks.md."""
    facts = next((r.facts for r in results if r.check == "versions"), {})
    machine = ", ".join(f"{n} {facts[n]}" for n in MACHINE if n in facts)
    others = ", ".join(f"{n} {v}" for n, v in facts.items() if n not in MACHINE)
    return "\n".join(
        [
            "## On a GPU",
            "",
            "```console",
            f"$ {command}",
            "```",
            "",
            f"Run on {when}: {machine or 'machine unknown'}.",
            f"Packages: {others or 'unknown'}.",
            "",
            table(results),
            "",
            f"{summary(results)}.",
            "",
        ]
    )
