"""Whether statements can have an effect when a module is imported, as a call may.

Only builtins and libraries are taken to have none: what they are is decided by what a name is bound
to. An operator, a method or a descriptor of anything else may run code of a plugin.
"""

import ast
import sys

from finery.builder.code.bindings import Bindings, chain, defaults, walk

PLAIN_DECORATORS = frozenset({
    "abc.abstractmethod", "builtins.classmethod", "builtins.property", "builtins.staticmethod",
    "contextlib.asynccontextmanager", "contextlib.contextmanager", "finery.hookimpl",
    "finery.outside_key", "functools.cache", "functools.cached_property", "functools.lru_cache",
    "functools.wraps",
    *(f"{module}.{name}" for module in ("typing", "typing_extensions")
      for name in ("final", "overload", "override")),
})  # fmt: skip
"""Decorators that neither register a function nor read its annotations or its docstring."""
ACCESSORS = frozenset({"deleter", "getter", "setter"})
"""Decorators that a property has."""
PURE_MODULES = frozenset({
    "abc", "collections", "contextlib", "contextvars", "dataclasses", "datetime", "enum", "finery",
    "fractions", "functools", "itertools", "math", "msgspec", "pathlib", "re", "statistics",
    "string", "struct", "textwrap", "threading", "types", "typing",
})  # fmt: skip
"""Modules with functions that only return something, so that a call matters only if it is read."""
PURE_FUNCTIONS = frozenset({
    "operator.attrgetter", "operator.itemgetter", "operator.methodcaller"
})  # fmt: skip
PURE_BUILTINS = frozenset({
    "abs", "bool", "bytes", "chr", "classmethod", "dict", "enumerate", "filter", "float",
    "frozenset", "int", "isinstance", "len", "list", "map", "max", "min", "object", "ord",
    "property", "range", "reversed", "round", "set", "slice", "sorted", "staticmethod", "str",
    "sum", "tuple", "zip",
})  # fmt: skip
PURE_METHODS = frozenset({
    "copy", "difference", "encode", "format", "fromkeys", "get", "getLogger", "intersection",
    "items", "join", "keys", "lower", "replace", "split", "splitlines", "strip", "union", "upper",
    "values",
})  # fmt: skip
"""Methods of builtins that only return something."""
CALLING = frozenset({"filter", "map", "max", "min", "reduce", "sorted"})
"""Functions of these modules and builtins that call what they get."""
RETURNING = frozenset({"get", "max", "min", "sum"})
"""Functions and methods of these that return a part of what they get, so perhaps any object."""
LIBRARIES = frozenset({*sys.stdlib_module_names, "builtins", "finery", "msgspec"})
"""Packages with classes, functions and constants that have no operators with an effect."""
_RETURNING = (ast.Return, ast.Import, ast.ImportFrom, ast.Pass)


class Effects:
    """Of the statements of a file. names: what they bind outside of functions."""

    def __init__(self, names: Bindings) -> None:
        self._names = names
        self._asked: set[str] = set()  # names whose values are being looked at

    def of_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        """Of a definition, rather than of a call."""
        if node.name == "finery_steps" and not all(isinstance(n, _RETURNING) for n in node.body):
            return True  # the hook may change what a step reads
        return any(map(self.of_decorator, node.decorator_list)) or self.of(*defaults(node.args))

    def of_class(self, node: ast.ClassDef) -> bool:
        """Of a class statement, but for what its bases do."""
        return (
            any(map(self.of_decorator, node.decorator_list))
            or self.of(*node.bases, *(keyword.value for keyword in node.keywords))
            or any(map(self._of_member, node.body))
        )

    def of_decorator(self, node: ast.expr) -> bool:
        """Of a decorator, which may register what it decorates."""
        if isinstance(node, ast.Call):
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            return self.of_decorator(node.func) or self.of(*given)
        return not (is_plain(node, self._names) or self.is_pure(chain(node)))

    def of(self, *nodes: ast.expr) -> bool:
        """Whether expressions can do more than return a value."""
        for node in walk(nodes, without=(ast.Lambda,)):
            match node:
                case ast.Call(func=ast.Attribute(attr=method, value=value)) if (
                    method in PURE_METHODS and self.is_plain(value)
                ):
                    pass
                case ast.Call(func=function) if not self.is_pure(chain(function)):
                    return True
                case ast.Call(func=function, args=args, keywords=keywords) if (
                    chain(function) or ""
                ).rpartition(".")[2] in CALLING:
                    called = [k.value for k in keywords if k.arg == "key"]
                    called += args[:1] if chain(function) not in ("max", "min", "sorted") else []
                    if not all(map(self._calls_pure, called)):
                        return True
                case ast.BinOp(left=left, right=right):
                    if not (self.is_plain(left) and self.is_plain(right)):
                        return True
                case ast.Compare(left=left, comparators=others, ops=ops):
                    if not all(isinstance(op, ast.Is | ast.IsNot) for op in ops) and not all(
                        map(self.is_plain, (left, *others))
                    ):
                        return True
                case ast.UnaryOp(op=ast.Invert() | ast.UAdd() | ast.USub(), operand=value):
                    if not self.is_plain(value):
                        return True
                case ast.Subscript(value=value):
                    if not self.is_plain(value):
                        return True
                case ast.Await() | ast.NamedExpr():
                    return True
        return False

    def registers(self, node: ast.AST) -> bool:
        """Whether a node in a class can have an effect when another is derived from the class."""
        match node:
            case ast.FunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                return name in ("__class_getitem__", "__init_subclass__")
            case ast.ClassDef(keywords=keywords):
                makers = [k.value for k in keywords if k.arg in ("metaclass", None)]
                return not all(self.is_pure(chain(maker)) for maker in makers)
        return False

    def is_plain(self, node: ast.AST) -> bool:
        """Whether a value has a type without operators, methods or descriptors of a plugin."""
        match node:
            case ast.Constant() | ast.JoinedStr() | ast.Lambda():
                return True
            case ast.List() | ast.Tuple() | ast.Set() | ast.Dict():
                return True
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                return True
            case ast.Name() | ast.Attribute() if sources := self._names.sources(chain(node)):
                return all(map(_is_of_library, sources))
            case ast.Name(id=name):
                return self._is_plain_name(name)
            case ast.BinOp(left=left, right=right):
                return self.is_plain(left) and self.is_plain(right)
            case ast.UnaryOp(operand=value) | ast.Starred(value=value):
                return self.is_plain(value)
            case ast.BoolOp(values=values):
                return all(map(self.is_plain, values))
            case ast.Compare(left=left, comparators=others):
                return all(map(self.is_plain, (left, *others)))
            case ast.IfExp(body=one, orelse=other):
                return self.is_plain(one) and self.is_plain(other)
            case ast.Subscript(value=value):  # a type: `dict[str, int]`
                return self._is_type(value)
            case ast.Call(func=ast.Attribute(value=value, attr=method)) if method in PURE_METHODS:
                return method not in RETURNING and self.is_plain(value)
            case ast.Call(func=function, args=args):
                full = chain(function)
                is_part = (full or "").rpartition(".")[2] in RETURNING
                return self.is_pure(full) and (not is_part or all(map(self.is_plain, args)))
        return False

    def _is_plain_name(self, name: str) -> bool:
        if name in self._asked:  # `x = x + 1`
            return True
        self._asked.add(name)
        try:
            values = self._names.values(name)
            return bool(values) and all(map(self._is_plain_value, values))
        finally:
            self._asked.remove(name)

    def _is_plain_value(self, node: ast.AST) -> bool:
        match node:
            case ast.FunctionDef(decorator_list=decorators):
                return not any(map(self.of_decorator, decorators))
            case ast.ClassDef(bases=bases):
                is_registering = any(map(self.registers, walk([node])))
                return not is_registering and all(map(self._is_type, bases))
        return self.is_plain(node)

    def _is_type(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Subscript):
            return self._is_type(node.value)
        is_own = isinstance(node, ast.Name) and any(
            isinstance(value, ast.ClassDef) for value in self._names.values(node.id)
        )
        return self.is_plain(node) and (is_own or bool(self._names.sources(chain(node))))

    def _of_member(self, node: ast.stmt) -> bool:
        """Of a statement in the body of a class."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return self.of_function(node)
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value) if plain_names(
                node
            ):
                is_call = isinstance(value, ast.Call)  # then of a pure function
                return self.of(value) or not (is_call or self.is_plain(value))  # `__set_name__`
            case ast.AnnAssign(value=None) | ast.Pass() | ast.Expr(value=ast.Constant()):
                return False
        return True

    def _calls_pure(self, node: ast.expr) -> bool:
        """Whether a call of an argument, if it is a function, only returns something."""
        match node:
            case ast.Lambda(body=body):
                return not self.of(body)
            case ast.Attribute(attr=method) if method in PURE_METHODS:
                return True
            case ast.Name() | ast.Attribute():
                sources = self._names.sources(chain(node))
                is_builtin = bool(sources) and all(s.startswith("builtins.") for s in sources)
                return is_builtin or self.is_pure(chain(node))
        return True

    def is_pure(self, name: str | None) -> bool:
        """Whether the function of this name only returns something."""
        sources = self._names.sources(name)
        return bool(sources) and all(map(_is_pure, sources))


def is_plain(decorator: ast.expr, names: Bindings) -> bool:
    """Whether a decorator is one of `PLAIN_DECORATORS`, or changes a property."""
    match decorator:
        case ast.Call(func=function):
            return is_plain(function, names)
        case ast.Attribute(value=ast.Name(id=name), attr=attribute) if attribute in ACCESSORS:
            values = names.values(name)
            return bool(values) and all(
                isinstance(value, ast.FunctionDef)
                and all(is_property(d, names) for d in value.decorator_list)
                and value.decorator_list
                for value in values
            )
    sources = names.sources(chain(decorator))
    return bool(sources) and sources <= PLAIN_DECORATORS


def is_property(decorator: ast.expr, names: Bindings) -> bool:
    """Whether a decorator makes a property, or changes one."""
    accesses = isinstance(decorator, ast.Attribute) and decorator.attr in ACCESSORS
    sources = names.sources(chain(decorator))
    return accesses or sources in ({"builtins.property"}, {"functools.cached_property"})


def plain_names(node: ast.stmt) -> list[str]:
    """The names that an assignment binds; none if it has another effect."""
    match node:
        case ast.Assign(targets=targets):
            pass
        case ast.AnnAssign(target=target):
            targets = [target]
        case _:
            return []
    parts = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple | ast.List) else [t])]
    names = [part.id for part in parts if isinstance(part, ast.Name)]
    return names if len(names) == len(parts) else []


def _is_pure(source: str) -> bool:
    top, _, rest = source.partition(".")
    if top == "builtins":
        return rest in PURE_BUILTINS
    return (top in PURE_MODULES or source in PURE_FUNCTIONS) and _is_of_library(source)


def _is_of_library(source: str) -> bool:
    return source.partition(".")[0] in LIBRARIES and not f"{source}.".startswith("finery.rows.")
