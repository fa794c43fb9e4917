"""Runs the functions of a recipe. A program, which `functions` starts as a separate process.

It reads JSON lines and answers each with a line. The first line names the factory, which is called
once for each session, with a row, and returns an object whose methods are the row's tools. What
the functions print goes to standard error. A process that a function forks ends with that call.
Each answer lists the files that were opened for it, so that the step can see undeclared ones.
"""

import importlib
import os
import re
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from finery.advanced import load_source

_encode, _decode = msgspec.json.encode, msgspec.json.decode
"""Held here, since a function may patch the package."""
WATCH_SECONDS = 1.0
"""How often to check whether the controlling process still exists."""
MOST_FILES = 10_000
"""Most opened files that are listed."""


class Fault(Exception):
    """The factory or its objects can't be used; the message says why."""


class Opened:
    """The files that this process opens, except those of Python and of installed packages."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, int], None] = {}
        self._new: list[tuple[str, int]] = []
        self._known = tuple(f"{p}{os.sep}" for p in (sys.prefix, sys.base_prefix))

    def take(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook. An exception here would fail the function's own `open`."""
        if event != "open":
            return
        with suppress(Exception):
            path, flags = os.path.abspath(os.fsdecode(arguments[0])), int(arguments[2])
            path.encode()  # a name that isn't UTF-8 can't be listed
            is_known = path.startswith(self._known) or (path, flags) in self._all
            if not is_known and len(self._all) < MOST_FILES:
                self._all[path, flags] = None
                self._new.append((path, flags))

    def new(self) -> list[tuple[str, int]]:
        """(path, flags of `open`) of files that weren't listed yet."""
        new, self._new = self._new, []
        return new


def main() -> None:
    """Answer lines until the input ends."""
    channel, process = os.fdopen(os.dup(1), "wb"), os.getpid()
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sessions: dict[int, Any] = {}
    factory: Any = None
    opened = Opened()
    sys.addaudithook(opened.take)
    for line in sys.stdin.buffer:
        order = _decode(line)
        try:
            if factory is None:
                factory = _factory(order["file"], order["factory"])
                answer: dict[str, Any] = {}
            else:
                answer = _answer(order, factory, sessions)
        except Fault as fault:
            answer = {"fault": str(fault)}
        if os.getpid() != process:
            os._exit(0)  # forked by a function: only one process answers
        channel.write(_encode({**answer, "opened": opened.new()}) + b"\n")
        channel.flush()


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, even while a function runs."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def _factory(file: str, name: str) -> Any:
    module, _, attribute = name.rpartition(":")
    try:
        if file:
            source = load_source(Path(file), f"finery_functions_{Path(file).stem}")
        else:
            source = importlib.import_module(module)
    except Exception as error:
        raise Fault(f"{file or module} can't be imported: {_words(error)}") from None
    factory = getattr(source, attribute, None)
    if not callable(factory):
        raise Fault(f"{file or module} has no function or class '{attribute}'")
    return factory


def _answer(order: dict[str, Any], factory: Any, sessions: dict[int, Any]) -> dict[str, Any]:
    number = order["session"]
    if order["do"] == "begin":
        sessions[number] = _begun(factory, order["row"], order["tools"])
        return {}
    if order["do"] == "end":
        sessions.pop(number, None)
        return {}
    if order["do"] == "state":
        return {"state": _state(sessions[number])}
    return _called(getattr(sessions[number], _attribute(order["name"]), None), order)


def _begun(factory: Any, row: Any, tools: list[str]) -> Any:
    try:
        session = factory(row)
    except Exception as error:
        raise Fault(f"the factory fails: {_words(error)}") from None
    for tool in tools:
        if not callable(getattr(session, _attribute(tool), None)):
            kind = type(session).__name__
            raise Fault(f"{kind} has no method '{_attribute(tool)}' for the tool {tool}")
    return session


def _called(function: Any, order: dict[str, Any]) -> dict[str, Any]:
    try:
        result = function(**order["arguments"])
    except (Exception, SystemExit) as error:
        return {"error": _words(error)}
    try:
        written = _json(result, f"the result of {order['name']}")
    except Fault as fault:
        return {"unwritable": str(fault)}
    return {"result": result if isinstance(result, str) else written}


def _state(session: Any) -> str:
    """The state of a session: what its `snapshot()` returns, else its public attributes."""
    snapshot = getattr(session, "snapshot", None)
    try:
        state = snapshot() if callable(snapshot) else vars(session)
    except Exception as error:
        raise Fault(f"the state can't be read: {_words(error)}") from None
    if not callable(snapshot):
        state = {name: value for name, value in state.items() if not name.startswith("_")}
    return _json(state, "the state")


def _json(value: Any, what: str) -> str:
    try:
        return _encode(value, order="deterministic").decode()
    except Exception as error:
        raise Fault(f"{what} can't be written as JSON: {_words(error)}") from None


def _attribute(tool: str) -> str:
    """The method of a tool: names of tools may hold dots and hyphens."""
    return re.sub(r"\W", "_", tool)


def _words(error: BaseException) -> str:
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return words.encode(errors="replace").decode()  # halves of surrogate pairs


if __name__ == "__main__":
    main()
