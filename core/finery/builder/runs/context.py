"""The circumstances of a run, for its record: recipe, revision, overrides, machine."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finery.builder.runs.git import revision_of
from finery.recipe.graph import Graph
from finery.util.installed import version_of
from finery.util.machine import cpu_count


def context_of(graph: Graph, recipe_id: str) -> dict[str, Any]:
    """Facts as JSON values. recipe_id: the recipe's path from the project's folder."""
    recipe = graph.recipe
    revision = revision_of(recipe.path.absolute().parent)
    return {
        "format": 1,
        "recipe": recipe.name,
        "path": recipe_id,
        "revision": None if revision is None else revision._asdict(),
        "overrides": list(recipe.overrides.values()),
        "only": [] if graph.whole is None else list(graph.nodes),
        "finery": version_of("finery"),
        "python": platform.python_version(),
        "machine": machine(),
    }


def machine(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A description of the machine, without its name."""
    from finery.execute.gpus import visible_gpus

    return {
        "system": platform.system(),
        "processor": _processor() or platform.machine(),
        "cores": cpu_count(),
        "memory": _memory(),
        "gpus": [gpu.name for gpu in visible_gpus(environment)],
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    names = (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line)
    return next(names, "")


def _memory() -> int | None:
    """Bytes of memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
