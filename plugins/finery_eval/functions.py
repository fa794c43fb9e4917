"""`execute:` the functions that execute the calls, and the process that runs them."""

import ast
import importlib
import os
import select
import subprocess
import sys
import time
from typing import Any, Literal

import msgspec

from finery import File, Key, Settings, StepError, UsageError, setting
from finery.advanced import did_you_mean
from finery.rows import Row
from finery_eval.calls import Call

HOST = "finery_eval.function_host"
START_SECONDS = 120.0
"""Time for importing the functions and for making the state of a row."""


class Execute(Settings):
    """Functions that execute the calls: `{file: shop.py, factory: Shop}`."""

    file: File | None = setting(
        None,
        help="The Python file with the factory. It can import neighbouring modules, whose code is "
        "also part of the key. Without a file, name the factory with its module.",
    )
    factory: str = setting(
        help="A class or function that takes a row and returns an object in its initial state. Its "
        "methods have the names of the tools. The state is the result of its method `snapshot`, or "
        "else its public attributes, as JSON.",
        examples=["Shop", "my_package.shop:Shop"],
    )
    expect: list[Literal["state", "answer"]] = setting(
        ["state"],
        min_length=1,
        help="What must be the same as after the row's own calls. state: the state of the object. "
        "answer: the text of the last turn, of which `extract` can select a part.",
    )
    max_steps: int = setting(8, ge=1, help="Maximum number of a model's turns for one row.")
    seconds: float = setting(5.0, gt=0, help="Time limit of a call, in seconds.")

    def check(self) -> None:
        """Raise `UsageError` for a factory that can't be named like this."""
        _, colon, name = self.factory.rpartition(":")
        if bool(colon) == (self.file is not None) or not name.isidentifier():
            raise UsageError(
                f"'{self.factory}' isn't the name of a factory",
                where="execute.factory",
                fix="use a class or function of `file`, or package.module:name without a file",
            )

    def check_file(self) -> None:
        """Raise `UsageError` for a file that isn't Python, or that has no such factory."""
        if self.file is None:
            self.cache_key()
            return
        name = self.file.names[0]
        try:
            tree = ast.parse(self.file.path.read_bytes(), name)
            compile(tree, name, "exec")
        except (SyntaxError, ValueError) as error:
            raise UsageError(
                f"{name} isn't Python: {error}", where="execute.file", fix="correct the file"
            ) from None
        names = _names_in(tree)
        if names is not None and self.factory not in names:
            raise UsageError(
                f"{name} has no function or class '{self.factory}'",
                where="execute.factory",
                fix=did_you_mean(self.factory, names) or f"write one in {name}",
            )

    def cache_key(self) -> Key:
        """The code of the file with the functions, or of the factory's module; what runs them."""
        if self.file is not None:
            return Key(code=[*self.file.paths, HOST])
        module, _, name = self.factory.rpartition(":")
        try:
            return Key(code=[getattr(importlib.import_module(module), name), module, HOST])
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"{self.factory} can't be imported: {error}",
                where="execute.factory",
                fix="install its package, or correct the name",
            ) from None


def _names_in(tree: ast.Module) -> set[str] | None:
    """All names that a file binds; None if it binds some in ways that only show when it runs."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(names=[ast.alias(name="*")]):
                return None
            case ast.Name(id="exec" | "globals" | "setattr" | "vars"):
                return None
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {(alias.asname or alias.name).partition(".")[0] for alias in aliases}
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                names.add(name)
    return None if "__getattr__" in names else names


class Stopped(Exception):
    """The process with the functions was stopped or ended. The message has the reason."""


class Functions:
    """The process with the functions. Close it after use.

    Sessions are independent of each other. If a call takes too long, the process is stopped, and
    the sessions go on in a new one, where their earlier calls are executed again.
    """

    def __init__(self, settings: Execute) -> None:
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self._sessions = 0

    def session(self, row: Row, tools: list[str]) -> "Session":
        """A session in its first state."""
        self._sessions += 1
        return Session(self, self._sessions, row, tools)

    def close(self) -> None:
        """Stop the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                pipe.close()
            self.process = None

    def order(self, order: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to an order. Raises `Stopped`, and `StepError` for functions that fail."""
        if self.process is None:
            self._start()
        try:
            answer = self._exchange(order, seconds)
        except Stopped:
            self.close()
            raise
        if "fault" in answer:
            self.close()
            raise self.unusable(answer["fault"])
        return answer

    def _start(self) -> None:
        self.starts += 1
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", HOST],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
        )
        file = self.settings.file
        source = {"file": str(file.path) if file else "", "factory": self.settings.factory}
        try:
            self.order(source, START_SECONDS)
        except Stopped as stopped:
            raise self.unusable(f"the process with the functions {stopped}") from None

    def unusable(self, reason: str, fix: str = "correct the functions") -> StepError:
        """The error for functions that can't be used."""
        return StepError(f"the functions can't be used: {reason}", where="execute.factory", fix=fix)

    def _exchange(self, order: dict[str, Any], seconds: float) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(msgspec.json.encode(order) + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Stopped("ended") from None
        try:
            answer = msgspec.json.decode(self._line(seconds), type=dict[str, Any])
        except msgspec.DecodeError:
            raise Stopped("writes into the answers of its process") from None
        for path, flags in answer.pop("opened", ()):
            sys.audit("open", path, None, flags)  # as if this process had opened it
        return answer

    def _line(self, seconds: float) -> bytes:
        """The next line of the process. Raises `Stopped` if it doesn't come in time."""
        assert self.process is not None
        assert self.process.stdout is not None
        pipe, deadline = self.process.stdout.fileno(), time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise Stopped(f"takes longer than {seconds:g} s")
            piece = os.read(pipe, 1 << 16)
            if not piece:
                raise Stopped("ended the process")
            line += piece
        return line


class Session:
    """An instance of the functions with its own state. Use `Functions.session`."""

    def __init__(self, functions: Functions, number: int, row: Row, tools: list[str]) -> None:
        self._functions = functions
        self._number = number
        self._begin = {"do": "begin", "session": number, "row": row, "tools": tools}
        self._executed: list[dict[str, Any]] = []
        self._start = 0  # of the process that the session is in

    def call(self, call: Call, *, is_expected: bool = False) -> tuple[str, bool]:
        """(what the function answers, whether that is an error).

        A call that is malformed isn't executed. One that takes too long has no effect. Of a call
        that is expected, a result that can't be written as JSON raises `StepError`.
        """
        if call.problem is not None:
            return _error(call.problem.text)
        order = {
            "do": "call", "session": self._number, "name": call.name, "arguments": call.arguments,
        }  # fmt: skip
        self._resume()
        try:
            answer = self._functions.order(order, self._functions.settings.seconds)
        except Stopped as stopped:
            return _error(f"{call.name} {stopped}")
        self._executed.append(order)
        if is_expected and "unwritable" in answer:
            raise self._functions.unusable(answer["unwritable"])
        error = answer.get("error") or answer.get("unwritable")
        return _error(error) if error is not None else (answer["result"], False)

    def state(self) -> str:
        """The state, as JSON with sorted keys."""
        self._resume()
        return str(self._order({"do": "state", "session": self._number})["state"])

    def close(self) -> None:
        """Forget the state."""
        if self._functions.process is not None and self._start == self._functions.starts:
            self._order({"do": "end", "session": self._number})
        self._start = 0

    def _resume(self) -> None:
        """Make the state in the process that runs now, if it was made in an earlier one."""
        if self._start and self._start == self._functions.starts and self._functions.process:
            return
        for order in (self._begin, *self._executed):
            self._order(order)
        self._start = self._functions.starts

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._functions.order(order, START_SECONDS)
        except Stopped as stopped:
            fix = "correct the functions: the same calls must always do the same"
            raise self._functions.unusable(f"{order['do']} {stopped}", fix) from None


def _error(reason: str) -> tuple[str, bool]:
    """An error as a tool's answer."""
    return msgspec.json.encode({"error": reason}).decode(), True
