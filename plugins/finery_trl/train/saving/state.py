"""What a stopped training leaves for the one that goes on: its last checkpoint and its best one.

A checkpoint in an output has no paths and no times, since these would be part of its identity.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery import Dataset, Model, Settings, Step, UsageError
from finery_trl.train.saving.checkpoints import MARK, MEASURED, last_whole, mark, step_of

if TYPE_CHECKING:
    from finery_trl.settings import Training

FOLDER = "state"
STOP = "stop_at"
STOPPED = "stopped"
"""The fact of a model that a training can go on from: what this one must have in common."""
OWN = (STOP,)
"""Settings in which the two may differ."""
LEFT_OUT = ("training_args.bin", "README.md", MARK)
"""Files of a checkpoint that no training reads; some have paths of this machine."""
ADAPTER_CONFIG = "adapter_config.json"
TRAINER_STATE = "trainer_state.json"
INPUTS = ("model", "rows", "validation")
"""What of `training_of` is an input, by its digest."""
LOGGED = frozenset({"step", "epoch", "watch", *MEASURED})


def training_of(step: "Training", seed: int) -> dict[str, Any]:
    """What decides the course of a training: setting → value, the seed, inputs by their digest."""
    inputs = {"model": step.model.digest, "rows": [rows.digest for rows in step.rows]}
    if step.validation is not None:
        inputs["validation"] = step.validation.digest
    return {**dict(_settings(step)), **inputs, "seed": seed}


def _settings(step: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    fields = type(step).__finery_fields__
    for name in type(step).__struct_fields__:
        value = getattr(step, name)
        if not fields[name].affects_output or name in OWN:
            continue
        if isinstance(value, Settings):
            yield from _settings(value, f"{prefix}{name}.")
        if isinstance(value, Step):
            yield f"{prefix}{name}", type(value).__qualname__
        elif isinstance(value, Dataset):
            yield f"{prefix}{name}", value.digest
        elif _is_plain(value):
            yield f"{prefix}{name}", value


def _is_plain(value: Any) -> bool:
    """Whether a value has no artifacts, whose digests are listed apart."""
    if isinstance(value, list | dict):
        return not any(isinstance(each, Dataset | Model) for each in value)
    return isinstance(value, bool | int | float | str | None)


def keep(model: Model, best: Path, last: Path, share: float, training: dict[str, Any]) -> None:
    """Add the state of a training that was stopped at `share` to its output."""
    for checkpoint in {best, last}:
        _copy(checkpoint, model.path / FOLDER / checkpoint.name)
    model.meta |= {STOP: share, STOPPED: training}


def restore(earlier: Model, folder: Path, training: dict[str, Any]) -> None:
    """Go on from a stopped training, unless this one has already come further.

    Raises `UsageError` if the two differ in more than their stop.
    """
    _check_same(earlier, training)
    saved = sorted((earlier.path / FOLDER).iterdir(), key=step_of)
    last = last_whole(folder)
    if last is not None and step_of(last) >= step_of(saved[-1]):
        return
    for checkpoint in saved:  # the last one last: a kill before it leaves too little to go on from
        shutil.rmtree(folder / checkpoint.name, ignore_errors=True)
        shutil.copytree(checkpoint, folder / checkpoint.name)
        mark(folder / checkpoint.name)


def _check_same(earlier: Model, training: dict[str, Any]) -> None:
    before = earlier.meta.get(STOPPED)
    if before is None:
        raise UsageError(
            "resume_from names a model that is not a stopped training",
            where="resume_from",
            fix="name a training with `stop_at`, or remove resume_from",
        )
    now = json.loads(json.dumps(training))
    for name in [*now, *before]:
        if now.get(name) != before.get(name):
            raise UsageError(
                f"the training to go on from has {_another(name, before, now)}",
                where="resume_from",
                fix=f"give both trainings the same {name}",
            )


def _another(name: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    if name == "rows":
        return "other rows"
    if name in INPUTS:
        return f"another {name}"
    return f"another {name}: {before.get(name)}, here {now.get(name)}"


def _copy(checkpoint: Path, to: Path) -> None:
    to.mkdir(parents=True)
    for file in sorted(checkpoint.iterdir()):
        if file.name not in LEFT_OUT:
            shutil.copyfile(file, to / file.name)
    state = _read(to / TRAINER_STATE)
    state["log_history"] = [
        {name: value for name, value in entry.items() if name in LOGGED}
        for entry in state["log_history"]
    ]
    _write(to / TRAINER_STATE, state)
    if (to / ADAPTER_CONFIG).exists():
        config = _read(to / ADAPTER_CONFIG)
        config["base_model_name_or_path"] = None
        for name, value in config.items():
            config[name] = sorted(value) if isinstance(value, list) else value  # sets in PEFT
        _write(to / ADAPTER_CONFIG, config)


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
