"""The definitions that a step can reach, from its class through the names that they read."""

from collections.abc import Iterable, Iterator

from finery.step.inspect import OUTSIDE_KEYS
from tools.definitions.parse import MAIN, Piece
from tools.definitions.refused import Refusal, refused_in
from tools.definitions.sources import Node, Sources


class Reach:
    """All definitions that nodes reach.

    nodes: what counts of each definition. data: files that count by their bytes. refused: what
    can't be followed. by_others: for code that isn't finery's, and that may do anything with what
    a method in `OUTSIDE_KEYS` or a definition marked `outside_key` returns.
    """

    def __init__(self, sources: Sources, nodes: Iterable[Node], *, by_others: bool = False) -> None:
        self._sources = sources
        self._by_others = by_others
        methods = {name for name in OUTSIDE_KEYS if name.isidentifier()}
        self._called = methods if by_others else set[str]()  # those that code in the key names
        start = [*nodes]
        while not self._follow(start):
            pass

    def _follow(self, start: list[Node]) -> bool:
        """Whether nothing was reached that calls methods which don't count so far."""
        called = {*self._called}
        self.nodes: dict[Node, list[Piece]] = {}
        self.data: set[str] = set()
        self.refused: dict[Refusal, None] = {}
        pending = [*start]
        while pending:
            node = pending.pop()
            if node in self.nodes:
                continue
            self.nodes[node] = self._counted(node)
            if MAIN in self._sources.read(node.module).units:
                pending.append(Node(node.module, MAIN))
            for piece in self.nodes[node]:
                self.refused |= dict.fromkeys(refused_in(piece, node, self._sources))
                self._called.update(self._methods(piece, node))
                pending += self._needed(piece, node)
        return called == self._called

    def _needed(self, piece: Piece, node: Node) -> Iterator[Node]:
        """The definitions that a piece refers to. Adds the files that it names to `data`."""
        sources = self._sources
        ends = [
            e for _, name in piece.reads for e in sources.ends(node.module, name, piece.imports)
        ]
        yield from (end for end in ends if isinstance(end, Node))
        label = sources.modules[node.module]
        files = {file for _, text in piece.strings for file in sources.data(label, text)}
        # also of a module as a value, of which code may read anything
        files |= {sources.modules[e] for e in ends if isinstance(e, str) and e in sources.modules}
        self.data |= files
        for module in (sources.module_of[file] for file in files if file in sources.module_of):
            yield from sources.everything(module)

    def _counted(self, node: Node) -> list[Piece]:
        """The pieces of a definition that count."""
        pieces = self._sources.unit(node).pieces
        if not self._by_others:
            pieces = [piece for piece in pieces if not piece.outside]
        if not self._sources.is_step(node):
            return pieces
        outside = {f"{node.unit}.{name}" for name in OUTSIDE_KEYS - self._called}
        return [piece for piece in pieces if piece.name not in outside]

    def _methods(self, piece: Piece, node: Node) -> set[str]:
        """The methods in `OUTSIDE_KEYS` of any object that a piece names."""
        return {
            name.rpartition(".")[2]
            for name in piece.methods
            if not self._is_function(name, piece, node)
        }

    def _is_function(self, name: str, piece: Piece, node: Node) -> bool:
        """Whether a name is that of a function in a module: `slices.check`."""
        last = name.rpartition(".")[2]
        ends = self._sources.ends(node.module, name, piece.imports) if "." in name else []
        return any(
            end.unit == last if isinstance(end, Node) else not end.startswith("builtins.")
            for end in ends
        )

    def files(self) -> dict[str, list[Piece]]:
        """File → what counts of it, in its order."""
        files: dict[str, list[Piece]] = {}
        for node, pieces in self.nodes.items():
            files.setdefault(self._sources.modules[node.module], []).extend(pieces)
        return {
            label: sorted(pieces, key=lambda p: (p.line, p.name))
            for label, pieces in files.items()
            if pieces
        }
