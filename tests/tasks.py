"""Tasks to start on an executor, and how they end."""

from pathlib import Path
from typing import Any

import msgspec
from conftest import LIGHT_STEPS, until

from finery.execute.executor import Executor, Need, Task
from finery.step.resources import Reservation
from finery.store.database import Store


class Tasks:
    """Makes tasks that run some Python, by the step types of `light_steps.py`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / ".finery")
        self.count = 0

    def __call__(self, code: str, *, isolated: bool = False) -> Task:
        self.count += 1
        key = f"{self.count:064x}"
        out, scratch = self.store.work(key)
        return Task(
            key=key,
            step=f"s{self.count}",
            use="steps.alone" if isolated else "steps.script",
            settings={"code": code, "rows": []},
            nested={},
            inputs={},
            files={},
            seed=None,
            pinned=None,
            env={},
            engines={},
            plugins=[str(LIGHT_STEPS)],
            store=str(self.store.root),
            out=str(out),
            scratch=str(scratch),
            log=str(self.folder / f"{self.count}.log"),
            isolated=isolated,
        )


def need(isolated: bool, gpus: int = 0, **resources: int) -> Need:
    """What a step needs."""
    return Need(
        step="s",
        use="steps.script",
        isolated=isolated,
        gpus=gpus,
        resources=Reservation(**resources),
    )


def ends(executor: Executor, count: int) -> dict[str, Any]:
    """The closing events of `count` tasks, by step."""
    closed: dict[str, Any] = {}
    until(lambda: closed.update(_closing(executor)) or len(closed) == count)
    return closed


def _closing(executor: Executor) -> dict[str, Any]:
    """Closing events there are now."""
    events = list(executor.poll(1))
    return {t.step: e for t, e in events if e["event"] in ("done", "failed", "died")}


PID = "rows.append({'prompt': str(os.getpid())})"
WORKER = "rows.append({'prompt': str(os.getppid())})"
"""The process from which the process of a light step was forked."""


def number_of(event: Any, tasks: Tasks) -> int:
    """The number that a task wrote, e.g. one that ran `PID`."""
    return int(text_of(event, tasks))


def text_of(event: Any, tasks: Tasks) -> str:
    """The text that a task wrote into its only row."""
    digest = event["outputs"][""]["files"]["rows-00000.jsonl"][0]
    return str(msgspec.json.decode(tasks.store.blob(digest).read_bytes())["prompt"])
