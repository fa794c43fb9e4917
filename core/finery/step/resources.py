"""What a step needs of a machine, and what it does in a rehearsal. Never in a key."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from finery.util.text import counted

_UNITS = {"MB": 2**20, "GB": 2**30, "TB": 2**40}
_MEMORY_PATTERN = "^[0-9]+(\\.[0-9]+)?(MB|GB|TB)$"
_SECONDS = {"d": 86_400, "h": 3600, "m": 60}
ON_NODES_VARIABLE = "FINERY_ON_NODES"
"""Environment variable with `Job.on_nodes`, as a shell quotes it. An executor sets it."""
NODE_VARIABLE = "FINERY_NODE"
"""Environment variable of what `Job.on_nodes` starts: the number of its node, 0 for the first."""
TIME_PATTERN = "^(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?$"
"""A pattern of durations."""
SCHEMA: dict[str, Any] = {
    "description": "What the step needs of a machine. Executors schedule by it; it isn't part of "
    "the key.",
    "type": "object",
    "minProperties": 1,
    "additionalProperties": False,
    "properties": {
        "gpus": {
            "description": "How many GPUs it gets. A training gets one for each process of launch.",
            "type": "integer",
            "minimum": 1,
        },
        "gpu_memory": {
            "description": "Memory that it uses on each of its GPUs, e.g. 20GB. Steps that "
            "state it share a GPU of this machine if they fit.",
            "type": "string",
            "pattern": _MEMORY_PATTERN,
        },
        "memory": {
            "description": "Main memory, e.g. 24GB or 800MB. 1GB is 1024MB, as in Slurm.",
            "type": "string",
            "pattern": _MEMORY_PATTERN,
        },
        "cpus": {"description": "How many cores.", "type": "integer", "minimum": 1},
        "time": {
            "description": "The longest that it may take on a cluster, e.g. 30m, 2h, 1h30m or 3d.",
            "type": "string",
            "pattern": TIME_PATTERN,
        },
    },
}


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What a step needs, according to its type. `|` joins two of them.

    gpus: how many it uses if the machine has them. Other steps can't use them meanwhile. A step
        with a local engine uses at least one.
    nodes: how many machines it can use at once, where an executor gives it several.
    variables: environment variables that settings name; it gets them as if listed in `env:`.
    packages: distributions that `run` imports → what to install, `{"torch": "finery[train]"}`.
        Only those that it can't do without, given its settings.
    """

    gpus: int = 0
    nodes: int = 1
    variables: Sequence[str] = ()
    packages: Mapping[str, str] = {}

    def __or__(self, other: "Resources") -> "Resources":
        """Both: the larger numbers, and everything that one of them needs."""
        return Resources(
            gpus=max(self.gpus, other.gpus),
            nodes=max(self.nodes, other.nodes),
            variables=(*self.variables, *other.variables),
            packages={**other.packages, **self.packages},
        )


class Reservation(msgspec.Struct, frozen=True):
    """`resources:` of a step in a recipe.

    memory, gpu_memory: bytes. time: seconds. 0 means that the recipe doesn't say.
    """

    gpus: int = 0
    memory: int = 0
    cpus: int = 0
    time: int = 0
    gpu_memory: int = 0

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> "Reservation":
        """That of a step, as a recipe that fits the schema writes it."""
        memory, on_gpu = (
            round(float(text[:-2]) * _UNITS[text[-2:]])
            for text in (written.get("memory", "0MB"), written.get("gpu_memory", "0MB"))
        )
        time = written.get("time", "")
        return cls(
            gpus=written.get("gpus", 0),
            memory=memory,
            gpu_memory=on_gpu,
            cpus=written.get("cpus", 0),
            time=sum(int(n) * _SECONDS[unit] for n, unit in re.findall(r"(\d+)([dhm])", time)),
        )

    def to_dict(self) -> dict[str, int]:
        """The ones that the step states, for JSON."""
        return {name: n for name, n in msgspec.structs.asdict(self).items() if n}

    def __str__(self) -> str:
        """In words: `1 GPU, 20GB on a GPU, 24GB of memory, 8 cores, 1h30m`."""
        hours, minutes = divmod(self.time // 60, 60)
        words = [
            counted(self.gpus, "GPU") if self.gpus else "",
            f"{_memory(self.gpu_memory)} on a GPU" if self.gpu_memory else "",
            f"{_memory(self.memory)} of memory" if self.memory else "",
            counted(self.cpus, "core") if self.cpus else "",
            f"{hours}h{minutes:02d}m" if self.time else "",
        ]
        return ", ".join(filter(None, words))


def _memory(count: int) -> str:
    """As recipes write it, in the largest unit with at most two decimals: `1.5GB`, `500MB`."""
    numbers = ((round(count / size, 2), size, unit) for unit, size in reversed(_UNITS.items()))
    fits = (f"{n:g}{unit}" for n, size, unit in numbers if n >= 1 and round(n * size) == count)
    return next(fits, f"{count / _UNITS['MB']:.2f}MB")


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """What a step does in `finery rehearse`, see `Step.rehearsal`.

    settings: setting → its value there, e.g. for a single optimizer step. Of a number, the most.
        The class keyword `rehearsal` gives the same.
    rows: how many rows of its inputs the step gets: `few` (some of each class and shape) or `all`.
        By default all for steps that make rows quickly, and few for others.
    run: runs in place of `run`, e.g. to make nothing public.
    small: runs in place of `run` unless real weights are asked for (`--weights`): it makes a model
        of the same architecture with few random weights.
    answers: what a model could answer to a request, for a step that can't go on with the answers of
        a model that has learned nothing. None for any text, or any value that follows the request's
        JSON Schema. The model is still asked once.
    """

    settings: Mapping[str, Any] = {}
    rows: Literal["", "few", "all"] = ""
    run: Callable[..., Any] | None = None
    small: Callable[..., Any] | None = None
    answers: Callable[..., str | None] | None = None


class Rehearsing(msgspec.Struct, frozen=True):
    """How a build rehearses. weights: with the real ones. offline: no paid model is asked."""

    weights: bool = False
    offline: bool = False
