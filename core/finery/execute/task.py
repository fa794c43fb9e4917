"""What a worker is sent: one step to run, as plain data."""

from typing import Any

import msgspec

from finery.artifact.manifest import Manifest


class Task(msgspec.Struct):
    """One step to run, as it is sent to a worker."""

    step: str
    use: str
    settings: dict[str, Any]
    nested: dict[str, tuple[str, dict[str, Any]]]  # field → (step type, settings) of a step inside
    inputs: dict[str, list[tuple[str, Manifest]]]  # field → (what the recipe calls it, artifact)
    files: dict[str, list[tuple[str, str]]]  # setting → (name, path) of each
    seed: int | None
    pinned: str | None
    env: dict[str, str]
    engines: dict[str, str]  # model format → its engine in keys of records; empty: may use none
    plugins: list[str]  # plugin files beside the recipe
    store: str
    out: str
    scratch: str
    log: str
    isolated: bool
